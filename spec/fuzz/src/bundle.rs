//! Policy bundles (SPEC §6.1).

use sift_spec::bundle::{BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX, Bundle};

use super::input::Input;

pub(crate) fn bundle(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::decode(bytes) {
        assert_eq!(bundle.encode(), bytes, "exactly one encoding");
        assert!(bytes.len() <= BUNDLE_BYTES_MAX && bundle.files().len() <= BUNDLE_FILES_MAX);
        assert_eq!(Bundle::new(bundle.files().clone()), Ok(bundle));
    }
    // Whatever files can be made into a bundle can be read from it.
    let mut input = Input::new(bytes);
    let mut files = Vec::new();
    while !input.is_empty() {
        let (path, content) = (usize::from(input.byte()), usize::from(input.byte()));
        files.push((String::from_utf8_lossy(input.take(path)).into_owned(), input.take(content).to_vec()));
    }
    if let Ok(bundle) = Bundle::new(files) {
        let encoded = bundle.encode();
        assert_eq!(Bundle::decode(&encoded).as_ref(), Ok(&bundle));
        assert_eq!(Bundle::decode(&encoded).unwrap().digest(), bundle.digest());
    }
}
