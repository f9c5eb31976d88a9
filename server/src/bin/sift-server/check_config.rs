//! `sift-server check-config`: what is in force, where it came from, and all that is wrong with it.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use sift_server::check::check;
use sift_server::settings::{Override, Resolution, Value, resolve};

pub(crate) fn check_config(path: &Path, settings: &[Override], json: bool) -> ExitCode {
    let Resolution { config, values, mut problems } = resolve(path, settings);
    if let Some(config) = &config {
        problems.extend(check(config));
    }
    if json {
        println!("{}", json!({ "ok": problems.is_empty(), "problems": problems, "settings": values }));
    } else {
        let width = values.iter().map(|value| value.key.len()).max().unwrap_or_default();
        for Value { key, value, source } in &values {
            println!("{key:width$}  {:<11}  {}", source.to_string(), value.as_deref().unwrap_or("(not set)"));
        }
        match problems.len() {
            0 => println!("\n{}: nothing is wrong", path.display()),
            n => {
                println!("\n{}: {n} problem{}", path.display(), if n == 1 { "" } else { "s" });
                problems.iter().for_each(|problem| println!("  {problem}"));
            }
        }
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
