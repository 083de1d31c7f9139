//! Who this process is among all that may bear its name: whoever holds the lock file.
//!
//! The file holds a random word, written once by whoever makes it. What is registered is that word with the machine, the boot and
//! the file's place on disk: a copy of the file (a cloned machine, an image with a lock file in it, a volume moved elsewhere) is
//! another file. Who holds the very file its predecessor registered knows that one dead, because the system drops the lock with
//! the process. A file that was deleted meanwhile is made anew, is another one too, and proves nothing.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::postgres::link::sql::hex;

/// Held as long as the process: no other process of this name holds the same file.
#[derive(Debug)]
pub struct InstanceLock {
    #[expect(dead_code, reason = "the lock lives as long as the file is open")]
    file: File,
    identity: Identity,
}

/// What a process registers of its lock file.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Of the file; none where no lock could be taken.
    proof: Option<String>,
    /// The file was there and empty: versions before 0.3 leave such files.
    older: bool,
}

impl Identity {
    /// Proven by `proof`: for tests, whose processes are none.
    #[must_use]
    pub fn by(proof: &str) -> Self {
        Self {
            proof: Some(proof.to_owned()),
            older: false,
        }
    }

    /// Proves that no other process holds what an earlier one with the same proof held.
    pub(super) fn proof(&self) -> Option<&str> {
        self.proof.as_deref()
    }

    /// Whether a lock file of a version before 0.3 was found, which nobody held.
    pub(super) fn succeeds_older(&self) -> bool {
        self.older
    }
}

impl InstanceLock {
    /// Takes the lock for `instance` on the outbox that `scope` describes (anything that tells two outboxes apart), in
    /// `directory` (default: the runtime directory systemd gave, the user's, or the temporary one).
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when another process holds it, or no file can be made.
    pub fn take(instance: &str, scope: &str, directory: Option<&Path>) -> Result<Self, StoreError> {
        let name = hex(&Sha256::digest(format!("{instance}\n{scope}"))[..8]);
        let path = directory
            .map_or_else(runtime_directory, Path::to_path_buf)
            .join(format!("outboxd-{name}.lock"));
        let broken = |what: &str, error: std::io::Error| {
            StoreError::Misconfigured(format!(
                "lease.instance: cannot {what} {}: {error}; set RUNTIME_DIRECTORY to a directory outboxd may write to",
                path.display()
            ))
        };
        let (mut file, made) = open(&path).map_err(|error| broken("open the lock file", error))?;
        match file.try_lock() {
            Ok(()) => {
                let identity = identify(&mut file, made).map_err(|error| broken("write the lock file", error))?;
                Ok(Self { file, identity })
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::Misconfigured(format!(
                "lease.instance: another process named {instance:?} relays this outbox on this machine; give each its own name"
            ))),
            Err(TryLockError::Error(error)) => {
                tracing::warn!(
                    %error, file = %path.display(),
                    "lease.instance: files cannot be locked there: a restart waits until the lease of the process before has ended; set RUNTIME_DIRECTORY to another directory"
                );
                let identity = Identity::default();
                Ok(Self { file, identity })
            }
        }
    }

    /// What to register of it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }
}

/// The file, and whether it was made just now.
fn open(path: &Path) -> std::io::Result<(File, bool)> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Ok((options.create(true).truncate(false).open(path)?, false))
        }
        Err(error) => Err(error),
    }
}

/// Reads the word in the file, which is locked, or writes one.
fn identify(file: &mut File, made: bool) -> std::io::Result<Identity> {
    const LENGTH: usize = 36;
    let mut word = String::new();
    // Whatever else stands there was not written by us.
    let read = Read::by_ref(file).take(1 + LENGTH as u64).read_to_string(&mut word);
    let older = read.is_ok() && word.is_empty() && !made;
    if read.is_err() || Uuid::parse_str(&word).is_err() {
        word = Uuid::new_v4().to_string();
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(word.as_bytes())?;
    }
    let place = file.metadata()?;
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest = Sha256::digest(format!(
        "{word}\n{}\n{}\n{}\n{}",
        machine.trim(),
        boot.trim(),
        place.dev(),
        place.ino()
    ));
    Ok(Identity {
        proof: Some(hex(&digest[..16])),
        older,
    })
}

fn runtime_directory() -> PathBuf {
    let from_environment = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .find(|path| path.is_dir());
    from_environment.unwrap_or_else(std::env::temp_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("outboxd-identity-{}", Uuid::new_v4()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn take(&self) -> Result<InstanceLock, StoreError> {
            InstanceLock::take("a", "b", Some(&self.0))
        }

        fn file(&self) -> PathBuf {
            std::fs::read_dir(&self.0).unwrap().next().unwrap().unwrap().path()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn proof(lock: &InstanceLock) -> String {
        lock.identity().proof().unwrap().to_owned()
    }

    #[test]
    fn the_same_file_proves_the_same_and_no_other_does() {
        let (one, two) = (Folder::new(), Folder::new());
        let first = one.take().unwrap();
        let elsewhere = two.take().unwrap();
        assert_ne!(proof(&first), proof(&elsewhere));
        assert!(one.take().is_err(), "it is held");
        let before = proof(&first);
        drop(first);
        let again = one.take().unwrap();
        assert_eq!(proof(&again), before);
        assert!(!again.identity().succeeds_older());
        // Deleted while it is held: whoever comes next makes another one.
        std::fs::remove_file(one.file()).unwrap();
        let anew = one.take().unwrap();
        assert_ne!(proof(&anew), before);
    }

    #[test]
    fn a_copy_of_the_file_is_another_one() {
        let (one, two) = (Folder::new(), Folder::new());
        let first = one.take().unwrap();
        std::fs::copy(one.file(), two.0.join(one.file().file_name().unwrap())).unwrap();
        assert_ne!(proof(&two.take().unwrap()), proof(&first));
    }

    #[test]
    fn an_empty_file_was_left_by_an_older_version() {
        let folder = Folder::new();
        drop(folder.take().unwrap());
        std::fs::write(folder.file(), "").unwrap();
        assert!(folder.take().unwrap().identity().succeeds_older());
        for hostile in [&b"\xff\xfe"[..], b"not a word", &[b'a'; 5000]] {
            std::fs::write(folder.file(), hostile).unwrap();
            let lock = folder.take().unwrap();
            assert!(!lock.identity().succeeds_older());
            assert_eq!(std::fs::read(folder.file()).unwrap().len(), 36);
        }
    }

    #[test]
    fn a_directory_that_takes_no_file_is_named_with_what_to_set() {
        let error = InstanceLock::take("a", "b", Some(Path::new("/proc/nowhere"))).unwrap_err();
        assert!(error.to_string().contains("RUNTIME_DIRECTORY"), "{error}");
    }
}
