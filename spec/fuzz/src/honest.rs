//! Honest objects that targets share, each made once: a target runs many thousand times a second.

use std::sync::LazyLock;

use sift_spec::note::SignerKey;
use sift_spec::payload::{Commitment, Object};
use sift_spec::trust::TrustPolicy;

use super::common::honest;
pub(crate) use super::common::honest::{Honest, LOG};

pub(crate) static KERNEL: LazyLock<SignerKey> = LazyLock::new(honest::kernel_key);
pub(crate) static LOG_KEY: LazyLock<SignerKey> = LazyLock::new(honest::log_key);
pub(crate) static OBJECTS: LazyLock<Vec<(Object, Commitment)>> = LazyLock::new(honest::objects);
pub(crate) static OPERATOR: LazyLock<SignerKey> = LazyLock::new(honest::operator_key);
pub(crate) static STRANGER: LazyLock<SignerKey> = LazyLock::new(honest::stranger_key);
pub(crate) static TRUST: LazyLock<TrustPolicy> = LazyLock::new(honest::trust);

/// Three witnesses, of which the honest trust file knows the first two.
pub(crate) static WITNESSES: LazyLock<[SignerKey; 3]> = LazyLock::new(|| [1, 2, 3].map(honest::witness_key));
