#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sift_fuzz::run("pack", bytes));
