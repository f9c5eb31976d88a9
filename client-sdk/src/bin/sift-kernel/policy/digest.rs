//! `policy digest`.

use std::path::Path;

use serde_json::json;
use sift_rules::PolicyBundle;

use crate::exit::{Failure, print_json};

/// Compiles a bundle and prints its digest.
pub(super) fn digest(dir: &Path, json: bool) -> Result<(), Failure> {
    let bundle = super::read(dir)?;
    let compiled = PolicyBundle::compile(&bundle)
        .map_err(|error| Failure::Refused(format!("{}: {error}", dir.display())))?;
    let (digest, engine) = (compiled.digest(), compiled.engine());
    if json {
        let files: Vec<_> = bundle.files().keys().collect();
        print_json(&json!({
            "digest": digest, "hex": digest.hex(), "engine": engine, "files": files,
            "size": compiled.encoding().len(),
        }));
    } else {
        anstream::println!("{}  {engine}  {} files", digest.hex(), bundle.files().len());
    }
    Ok(())
}
