//! What the simulator puts in libc's place: see `jepsen::sim::host`.
//!
//! The linker prefers a program's own definitions, and exports them to shared libraries, so every caller in the process comes here:
//! threads that do not run a simulation are passed on to the kernel.

#![allow(unsafe_code, reason = "C functions, defined by the program")]

use jepsen::sim::host;

/// # Safety
/// As of libc.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    if let Some((seconds, nanoseconds)) = host::clock(wall) {
        // SAFETY: the caller hands in a valid pointer.
        unsafe { time.write(libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds }) };
        return 0;
    }
    // SAFETY: the caller's arguments, as they came.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}

/// # Safety
/// As of libc.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if length > 0 {
        // SAFETY: the caller hands in a buffer of that length.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        if host::random(bytes) {
            return length as libc::ssize_t;
        }
    }
    // SAFETY: the caller's arguments, as they came.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t }
}

/// # Safety
/// As of libc.
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    epoll: libc::c_int,
    events: *mut libc::epoll_event,
    events_max: libc::c_int,
    timeout: libc::c_int,
) -> libc::c_int {
    if host::idle(timeout) {
        return 0;
    }
    let no_mask = std::ptr::null::<libc::sigset_t>();
    // SAFETY: the caller's arguments, as they came; there is no signal mask.
    unsafe {
        libc::syscall(libc::SYS_epoll_pwait, epoll, events, events_max, timeout, no_mask, 8) as libc::c_int
    }
}
