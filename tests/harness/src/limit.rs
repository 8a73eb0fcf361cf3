//! Limits a function to the processor time that Lambda gives it: a Linux control group with a quota.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::skip;

/// Lambda gives a function with 1,769 MB one whole processor, and a function with less memory its share of one.
const PERIOD_US: u32 = 20_000;
const WHOLE_PROCESSOR_MB: u32 = 1769;

/// Makes the group `$0` with a quota of `$1` of every `$2` microseconds, by version 1 or 2.
const MAKE: &str = r#"set -e
parent=$(dirname "$0")
test -e "$parent/cpu.cfs_quota_us" || echo +cpu >"$parent/cgroup.subtree_control"
mkdir "$0"
if test -e "$0/cpu.cfs_quota_us"
then echo "$2" >"$0/cpu.cfs_period_us" && echo "$1" >"$0/cpu.cfs_quota_us"
else echo "$1 $2" >"$0/cpu.max"
fi || { rmdir "$0"; exit 1; }"#;

/// The control group. It is removed on drop; the last process in it must have ended.
pub struct Limit(PathBuf);

impl Limit {
    /// # Errors
    /// If this system has no control groups for processors, or this user may not create one.
    pub fn for_memory(megabytes: u32) -> io::Result<Self> {
        let quota_us = (PERIOD_US * megabytes / WHOLE_PROCESSOR_MB).to_string();
        let mut reasons = Vec::new();
        for parent in parents() {
            let group = parent.join(name());
            let made = as_root_if_needed("sh", |shell| {
                shell.args(["-c", MAKE]).arg(&group).args([&quota_us, &PERIOD_US.to_string()])
            })?;
            if made.status.success() {
                return Ok(Self(group));
            }
            reasons.push(String::from_utf8_lossy(&made.stderr).trim().to_owned());
        }
        Err(io::Error::other(reasons.join("; ")))
    }

    /// As [`Self::for_memory`]. If that fails, it says that `what` is skipped, and returns `None`. In CI it panics instead.
    #[track_caller]
    pub fn for_memory_or_skip(megabytes: u32, what: &str) -> Option<Self> {
        Self::for_memory(megabytes).map_err(|error| skip(what, &format!("no control group: {error}"))).ok()
    }

    pub fn group(&self) -> &Path {
        &self.0
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        as_root_if_needed("rmdir", |rmdir| rmdir.arg(&self.0)).ok();
    }
}

/// Where a group may be made: at the root, or, as systemd lets a user do it, next to the group of this process. Version 2
/// refuses a group below one that has processes.
fn parents() -> Vec<PathBuf> {
    let version_1 = Path::new("/sys/fs/cgroup/cpu");
    if version_1.join("cpu.cfs_quota_us").exists() {
        return vec![version_1.to_owned()];
    }
    let version_2 = Path::new("/sys/fs/cgroup");
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let ours = ours.lines().find_map(|line| line.strip_prefix("0::/")).map(|path| version_2.join(path));
    let beside = ours.and_then(|group| Some(group.parent()?.to_owned()));
    [Some(version_2.to_owned()), beside.filter(|parent| parent.starts_with(version_2) && parent != version_2)]
        .into_iter()
        .flatten()
        .collect()
}

/// Moves a process into a group.
pub(crate) fn enter(group: &Path, process: u32) {
    let script = r#"echo "$1" >"$0""#;
    let moved = as_root_if_needed("sh", |shell| {
        shell.args(["-c", script]).arg(group.join("cgroup.procs")).arg(process.to_string())
    });
    let moved = moved.expect("a shell");
    assert!(moved.status.success(), "the control group: {}", String::from_utf8_lossy(&moved.stderr));
}

fn name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("userhub-signin-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// GitHub's machines let their user become root without a password.
fn as_root_if_needed(program: &str, arguments: impl Fn(&mut Command) -> &mut Command) -> io::Result<Output> {
    let output = arguments(&mut Command::new(program)).output()?;
    if output.status.success() || env::var_os("CI").is_none() {
        return Ok(output);
    }
    match arguments(Command::new("sudo").args(["-n", program])).output() {
        Err(_) => Ok(output), // no such program
        again => again,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_gets_its_share_and_no_more() {
        let Some(limit) = Limit::for_memory_or_skip(128, "limited processor time") else { return };
        let mut process = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        enter(limit.group(), process.id());
        thread::sleep(Duration::from_millis(500));
        let used = crate::function::cpu_time(process.id());
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(used > Duration::from_millis(5) && used < Duration::from_millis(100), "{used:?}"); // 36 ms are its share
        let group = limit.group().to_owned();
        drop(limit);
        assert!(!group.exists());
    }
}
