//! Who runs this command, for the audit.

use std::os::unix::fs::MetadataExt;

/// The operating system's name of the user, with the person behind `sudo` where there is one. The user id where it has no
/// name in `/etc/passwd`. The database adds its own role to the audit.
pub(super) fn who() -> String {
    let uid = std::fs::metadata("/proc/self").map(|process| process.uid()).ok();
    let name = uid.and_then(|uid| {
        std::fs::read_to_string("/etc/passwd")
            .ok()
            .and_then(|file| name_of(&file, uid))
    });
    let user = match (name, uid) {
        (Some(name), _) => name,
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "unknown".to_owned(),
    };
    match std::env::var("SUDO_USER") {
        Ok(person) if !person.is_empty() && person != user => format!("{person} as {user}"),
        Ok(_) | Err(_) => user,
    }
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_comes_from_the_user_id() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(name_of(passwd, 7), None);
    }
}
