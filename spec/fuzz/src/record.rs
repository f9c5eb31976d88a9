//! The texts of records, operator's records, approval statements and delegations (SPEC §3, §4).

use sift_spec::record::{
    APPROVAL_HEADER, DELEGATION_HEADER, Delegation, ENTRY_BYTES_MAX, OPERATOR_HEADER, OperatorRecord,
    RECORD_HEADER, Record, Statement,
};

use super::json::check_text;

pub(crate) fn record(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut readings = 0;
    if let Ok(record) = Record::parse(text) {
        assert_eq!(record.text().as_deref(), Ok(text), "exactly one encoding");
        check_text(RECORD_HEADER, text);
        // What it commits to and proposes can be asked of every record.
        let _ = (record.commitments(), record.action());
        readings += 1;
    }
    if let Ok(record) = OperatorRecord::parse(text) {
        assert_eq!(record.text().as_deref(), Ok(text), "exactly one encoding");
        check_text(OPERATOR_HEADER, text);
        readings += 1;
    }
    if let Ok(statement) = Statement::parse(text) {
        assert_eq!(statement.text().as_deref(), Ok(text), "exactly one encoding");
        check_text(APPROVAL_HEADER, text);
        readings += 1;
    }
    if let Ok(delegation) = Delegation::parse(text) {
        assert_eq!(delegation.text().as_deref(), Ok(text), "exactly one encoding");
        check_text(DELEGATION_HEADER, text);
        readings += 1;
    }
    assert!(readings <= 1, "no text is two kinds of note");
    assert!(readings == 0 || text.len() <= ENTRY_BYTES_MAX);
}
