//! The target `response`.

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tulle_fuzz::seeds::write("response"),
    |input: &[u8]| tulle_fuzz::response(input)
);
