//! Exit codes, all of them: **0** verified, **1** evidence rejected, **2** could not check.

use crate::error::CannotCheck;
use crate::report::{Report, Verdict};

/// How the program ends. With several subjects the worst counts, and a rejection is worse than not knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: everything that was given is verified.
    Verified,
    /// 2: something could not be checked.
    CouldNotCheck,
    /// 1: something was rejected.
    Rejected,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Verified => 0,
            Self::Rejected => 1,
            Self::CouldNotCheck => 2,
        }
    }
}

impl From<&Report> for Exit {
    fn from(report: &Report) -> Self {
        match report.verdict() {
            Verdict::Verified => Self::Verified,
            Verdict::Rejected => Self::Rejected,
        }
    }
}

impl From<&CannotCheck> for Exit {
    fn from(_: &CannotCheck) -> Self {
        Self::CouldNotCheck
    }
}
