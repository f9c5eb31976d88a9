//! Payload objects (SPEC §5).

use sift_spec::payload::{CONTENT_BYTES_MAX, Object, PayloadError, SALT_BYTES};

use super::honest::OBJECTS;

pub(crate) fn object(bytes: &[u8]) {
    let object = match Object::from_bytes(bytes.to_vec()) {
        Ok(object) => object,
        Err(error) => {
            assert_eq!(error, PayloadError::Length);
            assert!(bytes.len() < SALT_BYTES || bytes.len() > SALT_BYTES + CONTENT_BYTES_MAX);
            return;
        }
    };
    assert_eq!(object.as_bytes(), bytes);
    assert_eq!(object.content(), &bytes[SALT_BYTES..]);
    let commitment = object.commit("name".parse().unwrap(), "media".parse().unwrap());
    assert_eq!(object.check(&commitment), Ok(()));
    // It is what another commitment names only if it is that very object.
    for (other, commitment) in OBJECTS.iter() {
        assert_eq!(object.check(commitment).is_ok(), *other == object);
    }
}
