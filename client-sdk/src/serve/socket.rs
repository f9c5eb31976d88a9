//! The socket that clients connect to, and who may.
//!
//! The file belongs to the kernel's user and has mode 0600, or 0660 for a group. It gets its mode before its name, so
//! there is no moment at which others could connect. Whoever connects is looked at again: the operating system says
//! which user the other side is, and no other than these is served.

use std::fs::Permissions;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Server;
use crate::files::PART_SUFFIX;

/// After an accept that failed, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that clients connect to. Dropping it removes the file.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// The file's own identity, so that a successor's is not removed.
    inode: u64,
    /// The kernel's user.
    owner: u32,
    group: Option<Group>,
}

/// A group whose members may connect as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    id: u32,
    /// Users that `/etc/group` lists.
    members: Vec<u32>,
}

impl Group {
    /// The group of that name or number, with the members that `/etc/group` and `/etc/passwd` know. Members that only a
    /// directory service knows can connect if it is their primary group.
    ///
    /// # Errors
    /// When there is none, or the files cannot be read.
    pub fn find(name: &str) -> Result<Self, Error> {
        let groups = std::fs::read_to_string("/etc/group")?;
        let users = std::fs::read_to_string("/etc/passwd")?;
        Self::find_in(name, &groups, &users)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("/etc/group has no group {name}")))
    }

    fn find_in(name: &str, groups: &str, users: &str) -> Option<Self> {
        let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let group = groups.lines().map(fields).find(|group| {
            group.first().is_some_and(|field| field == name)
                || group.get(2).is_some_and(|field| field == name)
        })?;
        let id = group.get(2)?.parse().ok()?;
        let listed: Vec<&str> = group.get(3)?.split(',').collect();
        let members = users
            .lines()
            .map(fields)
            .filter(|user| user.first().is_some_and(|name| listed.contains(&name.as_str())));
        Some(Self { id, members: members.filter_map(|user| user.get(2)?.parse().ok()).collect() })
    }

    fn has(&self, user: u32, primary: u32) -> bool {
        primary == self.id || self.members.contains(&user)
    }
}

impl Door {
    /// Opens the socket. One that an ended process left behind is replaced.
    ///
    /// # Errors
    /// When something else is at the path, another process listens there, or it cannot be made.
    pub async fn open(path: &Path, group: Option<Group>) -> Result<Self, Error> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Error::new(ErrorKind::AlreadyExists, "something that is no socket is there"));
            }
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                return Err(Error::new(ErrorKind::AddrInUse, "another process listens there"));
            }
            _ => {}
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}{PART_SUFFIX}", std::process::id()));
        let part = path.with_file_name(name);
        let _ = std::fs::remove_file(&part);
        let listener = UnixListener::bind(&part)?;
        let ready = || {
            // Nobody knows this name, and until the next line only its owner could connect, or whom the umask lets.
            let mode = if group.is_some() { 0o660 } else { 0o600 };
            std::fs::set_permissions(&part, Permissions::from_mode(mode))?;
            if let Some(group) = &group {
                std::os::unix::fs::chown(&part, None, Some(group.id))?;
            }
            let made = std::fs::symlink_metadata(&part)?;
            std::fs::rename(&part, path)?;
            Ok(made)
        };
        let made = ready().inspect_err(|_: &Error| drop(std::fs::remove_file(&part)))?;
        Ok(Self { listener, path: path.to_owned(), inode: made.ino(), owner: made.uid(), group })
    }

    /// Whether the other side may be served.
    fn admits(&self, client: &UnixStream) -> bool {
        client.peer_cred().is_ok_and(|peer| {
            peer.uid() == self.owner
                || self.group.as_ref().is_some_and(|group| group.has(peer.uid(), peer.gid()))
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Serves whoever connects until `stop` becomes true, and then until every client's calls and runs have ended.
pub async fn listen(server: Arc<Server>, door: Door, mut stop: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = door.listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok((client, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if !door.admits(&client) {
            tracing::warn!(peer = ?client.peer_cred().ok(), "another user's connection was closed");
            continue;
        }
        let Some(place) = server.enter() else {
            tracing::warn!("a connection was closed: there are as many as may be");
            continue;
        };
        let (server, stop) = (Arc::clone(&server), stop.clone());
        clients.spawn(async move {
            let _place = place;
            let (reader, writer) = client.into_split();
            server.client(reader, writer, stop).await;
        });
    }
    drop(door);
    while clients.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_name_or_number_with_its_members() {
        let groups = "root:x:0:\nagents:x:990:ann,bob\nagent:x:99:eve\n";
        let users =
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\nbob:x:1001:1001::/:\neve:x:1002:1002::/:\n";
        let agents = Group { id: 990, members: vec![1000, 1001] };
        assert_eq!(Group::find_in("agents", groups, users), Some(agents.clone()));
        assert_eq!(Group::find_in("990", groups, users), Some(agents.clone()));
        assert_eq!(Group::find_in("nobody", groups, users), None);
        assert!(agents.has(1001, 5) && agents.has(7, 990) && !agents.has(1002, 1002) && !agents.has(0, 0));
    }
}
