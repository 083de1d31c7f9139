//! Certificates made for a test, as an administrator would: authorities, servers, clients.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::processes::{run, scratch};

/// - `ca`: the authority servers and clients are to trust; `other`: one nobody trusts;
/// - `server`: for `localhost` only; `expired`: the same, until last year; `elsewhere`: for another host; `self`: signed by
///   itself, and it says it is an authority; all but the last signed by `ca`;
/// - `client`: of the user `tls`; `stranger`: the same, signed by `other`.
const SCRIPT: &str = r#"
set -e; cd "$1"
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -subj "/CN=$2" "${@:3}"; }
signed() { # signed NAME SUBJECT AUTHORITY EXTENSION [DATES...]
  new "$1" "$2" -out "$1.csr"
  printf '%s\n' "$4" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$3.crt" -CAkey "$3.key" -CAcreateserial -extfile "$1.ext" -out "$1.crt" "${@:5}"
}
new ca ca -x509 -days 2 -out ca.crt
new other other -x509 -days 2 -out other.crt
new self localhost -x509 -days 2 -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:TRUE -out self.crt
signed server localhost ca subjectAltName=DNS:localhost -days 2
signed elsewhere elsewhere.example ca subjectAltName=DNS:elsewhere.example -days 2
signed client tls ca extendedKeyUsage=clientAuth -days 2
signed stranger tls other extendedKeyUsage=clientAuth -days 2
# `openssl x509` gives no certificate a past; `openssl ca` does.
new expired localhost -out expired.csr
printf 'subjectAltName=DNS:localhost\n' > expired.ext; : > index.txt; mkdir -p issued
printf '[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\nrand_serial=yes\nnew_certs_dir=issued\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n' > ca.cnf
openssl ca -batch -notext -config ca.cnf -cert ca.crt -keyfile ca.key -in expired.csr -extfile expired.ext \
  -startdate 20200101000000Z -enddate 20210101000000Z -out expired.crt
chmod 600 *.key; chmod 644 client.key stranger.key ca.key
"#;

/// A folder of certificates and keys, PEM: `<name>.crt`, `<name>.key`. Removed on drop.
pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes all of them.
    pub(crate) fn new() -> Self {
        Self::by(Command::new("bash"))
    }

    /// Makes them by `shell`: a bash, perhaps of another user, whose keys they are then.
    pub(crate) fn by(mut shell: Command) -> Self {
        let folder = scratch("certificates");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
        run(shell.args(["-c", SCRIPT, "bash"]).arg(&folder));
        Self { folder }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// A file of the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file next to them.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).expect("the folder is writable");
        path
    }

    /// `text` with `{name.crt}`, `{name.key}` and other files of the folder in braces as paths.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut filled = text.to_owned();
        for entry in std::fs::read_dir(&self.folder).expect("the folder is there").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            filled = filled.replace(&format!("{{{name}}}"), &entry.path().display().to_string());
        }
        filled
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
