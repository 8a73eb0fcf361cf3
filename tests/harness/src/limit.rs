//! Limits a function to the processor time that Lambda gives it: a Linux control group with a quota.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lambda gives a function with 1,769 MB one whole processor, and a function with less memory its share of one.
const PERIOD_US: u32 = 20_000;
const WHOLE_PROCESSOR_MB: u32 = 1769;

/// The control group. It is removed on drop; the last process in it must have ended.
pub struct Limit(PathBuf);

impl Limit {
    /// # Errors
    /// If this system has no control groups for processors, or this user may not create one.
    pub fn for_memory(megabytes: u32) -> io::Result<Self> {
        let quota_us = PERIOD_US * megabytes / WHOLE_PROCESSOR_MB;
        let (version_1, version_2) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        if version_1.join("cpu.cfs_quota_us").exists() {
            let limit = Self::make(version_1)?;
            fs::write(limit.0.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            fs::write(limit.0.join("cpu.cfs_quota_us"), quota_us.to_string())?;
            Ok(limit)
        } else {
            fs::write(version_2.join("cgroup.subtree_control"), "+cpu")?;
            let limit = Self::make(version_2)?;
            fs::write(limit.0.join("cpu.max"), format!("{quota_us} {PERIOD_US}"))?;
            Ok(limit)
        }
    }

    fn make(parent: &Path) -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = parent.join(format!("userhub-signin-{}-{number}", std::process::id()));
        fs::create_dir(&group)?;
        Ok(Self(group))
    }

    pub fn group(&self) -> &Path {
        &self.0
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}
