//! The log's JSON answers as its clients read them (SPEC §10): what a hostile log could send.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sift_spec::api::{
    BatchAnswer, ConsistencyAnswer, InclusionAnswer, OperatorAnswer, Problem, RunAnswer, RunsAnswer,
};

pub(crate) fn answer(bytes: &[u8]) {
    check::<BatchAnswer>(bytes);
    check::<ConsistencyAnswer>(bytes);
    check::<InclusionAnswer>(bytes);
    check::<OperatorAnswer>(bytes);
    check::<Problem>(bytes);
    check::<RunAnswer>(bytes);
    check::<RunsAnswer>(bytes);
}

/// What is read can be printed and reads as the same.
fn check<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
    let printed = serde_json::to_vec(&read).expect("what was read can be printed");
    assert_eq!(serde_json::from_slice::<T>(&printed).expect("what was printed can be read"), read);
}
