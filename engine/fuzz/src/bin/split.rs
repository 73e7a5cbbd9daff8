//! The target `split`.

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tulle_fuzz::seeds::write("split"),
    |input: &[u8]| tulle_fuzz::split::check(input)
);
