//! The allocator of the engine, and how it lets go of what a burst has left.

#![expect(unsafe_code, reason = "allocators offer this to C alone")]

use mimalloc::MiMalloc;
use tulle_engine::threads::GIVE_BACK;

/// For Rust alone; Python keeps its own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Set how a thread of the engine gives free memory back.
pub(crate) fn set_give_back() {
    // Of several engines in a process the first has set it.
    let _set = GIVE_BACK.set(give_back);
}

fn give_back() {
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: it is linked with the allocator above and touches free memory of this thread alone.
    unsafe { mi_collect(true) };
}
