//! What a bundle may hold, and what its settings mean.
#![allow(clippy::unwrap_used)]

mod common;

use common::{compile, tool};
use sift_rules::{CallInput, CompileError, decide};
use sift_spec::meter::{Meter, Usage};
use sift_spec::record::Refusal;
use sift_spec::types::INTEGER_MAX;

const REGO: (&str, &str) = ("p.rego", "package sift\nallow contains {\"rule\": \"all\"}\n");
const CEDAR: (&str, &str) = ("p.cedar", "@id(\"all\") permit (principal, action, resource);\n");

#[test]
fn there_is_no_default() {
    assert_eq!(compile(&[]).unwrap_err(), CompileError::NoPolicy);
    assert_eq!(compile(&[("README.md", ""), ("budget.toml", "")]).unwrap_err(), CompileError::NoPolicy);
    assert_eq!(compile(&[REGO, CEDAR]).unwrap_err(), CompileError::TwoEngines);
}

#[test]
fn unknown_files_are_named() {
    for path in
        ["policy.txt", "sub/data.json", "Budget.toml", "prices.json", "tests/a.txt", "rego", "readme.md"]
    {
        let error = compile(&[REGO, (path, "{}")]).unwrap_err();
        assert_eq!(error, CompileError::UnknownFile(path.to_owned()));
    }
    for path in ["README.md", "tests/a.json", "tests/deep/b.json", "lib/more.rego"] {
        let content = if path.ends_with("rego") { "package lib\nx := 1\n" } else { "{" };
        let result = compile(&[REGO, (path, content)]);
        assert!(result.is_ok(), "{path}: {result:?}");
    }
}

#[test]
fn settings_that_do_not_parse_are_named() {
    for (file, content, part) in [
        ("data.json", "[1]", "object"),
        ("data.json", "{\"a\":1,\"a\":2}", "twice"),
        ("budget.toml", "[run]\ntools = 1", "run.tools"),
        ("prices.toml", "[[model]]\nname = \"m\"", "input"),
        ("facts.toml", "[[fact]]\nname = \"a\"\ntool = \"t\"\nkeys = \"k\"", "keys"),
        ("facts.toml", "[[fact]]\nname = \"a\"\ntool = \"t\"\nkey = \"\"", "empty"),
        (
            "facts.toml",
            "[[fact]]\nname=\"a\"\ntool=\"t\"\nkey=\"k\"\n[[fact]]\nname=\"a\"\ntool=\"u\"\nkey=\"l\"",
            "differ",
        ),
        (
            "facts.toml",
            "[[fact]]\nname=\"a\"\ntool=\"t\"\nkey=\"k\"\n[[fact]]\nname=\"a\"\ntool=\"t\"\nkey=\"k\"",
            "twice",
        ),
    ] {
        let error = compile(&[REGO, (file, content)]).unwrap_err().to_string();
        assert!(error.starts_with(file) && error.contains(part), "{file}: {error}");
    }
}

#[test]
fn engines_are_the_locked_versions() {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
    let lock = std::fs::read_to_string(lock).unwrap();
    for (files, kind) in [(REGO, "rego"), (CEDAR, "cedar")] {
        let bundle = compile(&[files]).unwrap();
        let (engine, version) = bundle.engine().rsplit_once('-').unwrap();
        let name = engine.strip_prefix(kind).unwrap().strip_prefix('/').unwrap();
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(lock.contains(&entry), "Cargo.lock does not hold {entry}");
    }
}

#[test]
fn digest_and_encoding_are_the_bundles() {
    let bundle = compile(&[REGO]).unwrap();
    let again = sift_spec::bundle::Bundle::decode(bundle.encoding()).unwrap();
    assert_eq!(again.digest(), bundle.digest());
}

#[test]
fn deciders_work_in_parallel() {
    for files in [REGO, CEDAR] {
        let bundle = std::sync::Arc::new(compile(&[files]).unwrap());
        let input = tool("t", "{}");
        let expected = decide(&bundle, &input);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut decider = bundle.decider();
                    assert!((0..100).all(|_| decider.decide(&input) == expected));
                });
            }
        });
    }
}

#[test]
fn needs_and_bills() {
    let prices = "[[model]]\nname = \"m\"\ninput = 2_000_000\noutput = 10_000_000\n";
    let model = |name: &str| CallInput::Model {
        input_tokens: 100,
        max_output: 10,
        model: name.parse().unwrap(),
        provider: "p".parse().unwrap(),
    };
    let bundle = compile(&[REGO, ("prices.toml", prices), ("budget.toml", "[run]\nmicro_usd = 5")]).unwrap();
    let need = bundle.need(&model("m")).unwrap();
    assert_eq!(
        (need.get(Meter::MicroUsd), need.get(Meter::Tokens), need.get(Meter::ModelCalls)),
        (300, 110, 1)
    );
    assert!(matches!(bundle.need(&model("other")), Err(Refusal::Unpriced(_))));
    let usage = Usage { input: 90, cache_read: 10, output: 4, reasoning: 6, ..Usage::default() };
    let billed = bundle.billed("p", "m", &usage);
    assert_eq!(billed.first_above(&need), None, "{billed:?} {need:?}");
    // A usage beyond all bounds does not cost nothing.
    let usage = Usage { input: INTEGER_MAX, output: INTEGER_MAX, ..Usage::default() };
    assert_eq!(bundle.billed("p", "m", &usage).get(Meter::MicroUsd), INTEGER_MAX);
    let unlimited = compile(&[REGO]).unwrap();
    assert_eq!(unlimited.need(&model("other")).unwrap().get(Meter::MicroUsd), 0);
    assert_eq!(bundle.need(&CallInput::tool("t".parse().unwrap(), b"{}")).unwrap().get(Meter::ToolCalls), 1);
}
