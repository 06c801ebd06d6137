//! The disk that the store is on.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// How large it is, and how much of it is taken (or kept back from us). `None`: the system doesn't say.
pub fn usage(dir: &Path) -> Option<(u64, u64)> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a C string, and the struct is large enough and initialised.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    let capacity = stat.f_blocks.checked_mul(stat.f_frsize)?;
    let free = stat.f_bavail.checked_mul(stat.f_frsize)?;
    Some((capacity, capacity.saturating_sub(free)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn disk_has_a_size() {
        let (capacity, used) = super::usage(&std::env::temp_dir()).expect("there is a disk");
        assert!(0 < used && used <= capacity);
        assert_eq!(super::usage(std::path::Path::new("/does/not/exist")), None);
    }
}
