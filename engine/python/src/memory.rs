//! The allocator of the engine, and how it lets go of what a burst has left.

#![expect(unsafe_code, reason = "an allocator is made of raw pointers")]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mi;
use tulle_engine::threads::GIVE_BACK;

/// What every block is aligned to without being asked (`MI_MAX_ALIGN_SIZE`).
const ALIGNED: usize = 16;

/// mimalloc, asked for an alignment only where it is unusual: its aligned blocks take a slower
/// way in and out.
struct Allocator;

/// For Rust alone; Python keeps its own.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: mimalloc gives blocks of at least the size asked for and the alignment promised, and
// takes them back by any of its functions.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size and any power of two may be asked for.
        unsafe {
            match layout.align() <= ALIGNED {
                true => mi::mi_malloc(layout.size()).cast(),
                false => mi::mi_malloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match layout.align() <= ALIGNED {
                true => mi::mi_zalloc(layout.size()).cast(),
                false => mi::mi_zalloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller got it from here.
        unsafe { mi::mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller got it from here.
        unsafe {
            match layout.align() <= ALIGNED {
                true => mi::mi_realloc(block.cast(), size).cast(),
                false => mi::mi_realloc_aligned(block.cast(), size, layout.align()).cast(),
            }
        }
    }
}

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
    trim_c();
}

/// The same for what C has freed: TLS takes its keys' memory from there.
#[cfg(target_env = "gnu")]
fn trim_c() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: it touches free memory alone, and locks what it touches.
    let _any_given_back = unsafe { malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_c() {}
