//! How the C library hands out memory.
#![expect(
    unsafe_code,
    reason = "the C library's allocator has no safe interface"
)]

/// From this size on a block is mapped by itself, and given back when it is freed. Without a fixed size, the first
/// large block that is freed raises the limit to its own, up to 32 MiB, and the holes of the next ones stay.
const MAPPED_BYTES: libc::c_int = 1 << 20;

/// Heaps of a process whose threads hand buffers to each other, as those of a push and of a registry do.
const HEAPS: libc::c_int = 2;

/// Sets the allocator up for what has a limit of memory. A push of a million small files took 341 to 357 MB
/// of resident memory without this, 298 with it (before other savings); a registry of 10 million chunks with 200
/// readers 298 to 309 MB without it, 171 with it, because each of its 64 threads may allocate, and 16 heaps of theirs keep
/// what was freed in them (`make bench ROW=P4`). Call it before there is another thread.
pub(crate) fn keep_small() {
    // SAFETY: mallopt(3) takes two numbers, and changes how later calls of malloc() choose. It is not safe to call
    // while other threads allocate, and there are none yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}
