//! The target `bridge`.

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tulle_fuzz::seeds::write("bridge"),
    |input: &[u8]| tulle_fuzz::bridge::check(input)
);
