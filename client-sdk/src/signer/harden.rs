//! A process whose memory others do not get to see.

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Keeps the memory of this process, and with it the key, from debuggers of the same user, from `/proc/PID/mem` and
/// from core dumps. Call it first thing, before a key is read; it holds until the process ends or executes another
/// program. Linux; elsewhere only core dumps are turned off.
///
/// # Errors
/// When the operating system refuses.
pub fn harden_process() -> Result<(), std::io::Error> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Keeps all memory of this process, also what it gets later, out of swap. For a process that is small, as a signer's
/// is: for others the limit on locked memory (`ulimit -l`) makes later allocations fail; [`super::LockedKey`] locks the
/// key alone.
///
/// # Errors
/// When the limit on locked memory does not allow it.
pub fn lock_memory() -> Result<(), std::io::Error> {
    use rustix::mm::MlockAllFlags;
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?;
    Ok(())
}
