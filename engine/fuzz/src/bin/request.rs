//! The target `request`.

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tulle_fuzz::seeds::write("request"),
    |input: &[u8]| tulle_fuzz::request(input)
);
