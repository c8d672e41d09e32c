//! Extended attributes, xattr(7).

use std::ffi::CStr;
use std::path::Path;

use nix::NixPath as _;
use nix::errno::Errno;

use crate::error::SysError;

/// From `include/uapi/linux/limits.h`.
const XATTR_LIST_MAX: usize = 65_536;
const XATTR_SIZE_MAX: usize = 65_536;

/// Names of the attributes of what a path leads to, each with its zero byte; the last link is followed.
pub fn list(path: &Path) -> Result<Vec<u8>, SysError> {
    let mut names = vec![0_u8; XATTR_LIST_MAX];
    let got = path.with_nix_path(|path| {
        // SAFETY: the path ends in a zero byte; the kernel writes at most as many bytes as the buffer has.
        unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) }
    });
    let len = got.and_then(Errno::result).map_err(SysError::of("listxattr"))?;
    names.truncate(len as usize);
    Ok(names)
}

/// The value of one attribute.
pub fn get(path: &Path, name: &CStr) -> Result<Vec<u8>, SysError> {
    let mut value = vec![0_u8; XATTR_SIZE_MAX];
    let got = path.with_nix_path(|path| {
        // SAFETY: both strings end in a zero byte; the kernel writes at most as many bytes as the buffer has.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) }
    });
    let len = got.and_then(Errno::result).map_err(SysError::of("getxattr"))?;
    value.truncate(len as usize);
    Ok(value)
}

/// Sets one attribute of what a path names; the last link is not followed.
pub fn set(path: &Path, name: &CStr, value: &[u8]) -> Result<(), SysError> {
    let done = path.with_nix_path(|path| {
        // SAFETY: both strings end in a zero byte; the kernel reads the value.
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
    });
    done.and_then(Errno::result).map(|_| ()).map_err(SysError::of("setxattr"))
}

/// As [`set`], but for what a link of `/proc/self/fd` leads to.
pub fn set_followed(path: &Path, name: &CStr, value: &[u8]) -> Result<(), SysError> {
    let done = path.with_nix_path(|path| {
        // SAFETY: both strings end in a zero byte; the kernel reads the value.
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
    });
    done.and_then(Errno::result).map(|_| ()).map_err(SysError::of("setxattr"))
}

/// As [`list`], but the last link is not followed.
pub fn list_of_link(path: &Path) -> Result<Vec<u8>, SysError> {
    let mut names = vec![0_u8; XATTR_LIST_MAX];
    let got = path.with_nix_path(|path| {
        // SAFETY: the path ends in a zero byte; the kernel writes at most as many bytes as the buffer has.
        unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) }
    });
    let len = got.and_then(Errno::result).map_err(SysError::of("llistxattr"))?;
    names.truncate(len as usize);
    Ok(names)
}

/// As [`get`], but the last link is not followed.
pub fn get_of_link(path: &Path, name: &CStr) -> Result<Vec<u8>, SysError> {
    let mut value = vec![0_u8; XATTR_SIZE_MAX];
    let got = path.with_nix_path(|path| {
        // SAFETY: both strings end in a zero byte; the kernel writes at most as many bytes as the buffer has.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) }
    });
    let len = got.and_then(Errno::result).map_err(SysError::of("lgetxattr"))?;
    value.truncate(len as usize);
    Ok(value)
}
