#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sift_verify_fuzz::run("payload", bytes));
