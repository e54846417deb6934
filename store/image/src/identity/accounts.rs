//! The user who logs in: found or made, with keys.

use shale_model::{Attrs, Kind, NodeData, TreePath};

use super::layer::{Builder, known, lines};
use super::{IdentityError, Login};
use crate::merge::ChunkBytes;

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";
const SHADOW: &str = "etc/shadow";
const GSHADOW: &str = "etc/gshadow";
const SKEL: &str = "etc/skel";

/// The databases that are read.
pub(super) const FILES: &[&str] = &[PASSWD, GROUP, SHADOW, GSHADOW];

/// First number of a person (Debian Policy 9.2.2).
const FIRST_UID: u32 = 1000;
/// Last number of a person (Debian Policy 9.2.2).
const LAST_UID: u32 = 59_999;

/// A password that no input matches, and that does not lock the account for other ways to log in.
const NO_PASSWORD: &str = "*";

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// The shells of a user who is made: the first that the template has.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// Numbers and home of a user.
struct User {
    uid: u32,
    gid: u32,
    home: TreePath,
}

/// Lets the user log in with keys.
pub(super) fn log_in(
    builder: &mut Builder<'_>,
    bytes: &ChunkBytes,
    login: &Login,
) -> Result<(), IdentityError> {
    let passwd = builder.read(PASSWD, bytes)?.unwrap_or_default();
    let user = match fields_of(&passwd, login.user.as_bytes()) {
        Some(fields) => {
            let damaged = || IdentityError::DamagedUser(login.user.clone());
            let user = existing(&fields).ok_or_else(damaged)?;
            unlock(builder, bytes, login)?;
            user
        }
        None => create(builder, bytes, login, &passwd)?,
    };
    authorize(builder, login, &user)
}

/// The fields of a user's or group's line.
fn fields_of(file: &[u8], name: &[u8]) -> Option<Vec<Vec<u8>>> {
    let split =
        |line: &[u8]| -> Vec<Vec<u8>> { line.split(|&b| b == b':').map(<[u8]>::to_vec).collect() };
    lines(file).map(split).find(|fields| fields[0] == name)
}

fn existing(fields: &[Vec<u8>]) -> Option<User> {
    let number =
        |at: usize| -> Option<u32> { std::str::from_utf8(fields.get(at)?).ok()?.parse().ok() };
    let home: Vec<_> = fields
        .get(5)?
        .strip_prefix(b"/")?
        .split(|&b| b == b'/')
        .filter(|name| !name.is_empty())
        .collect();
    Some(User {
        uid: number(2)?,
        gid: number(3)?,
        home: TreePath::new(&home.join(&b'/')).ok()?,
    })
}

/// The SSH server refuses keys of an account whose password is locked, unless it asks PAM: such a
/// password becomes one that nobody has.
fn unlock(
    builder: &mut Builder<'_>,
    bytes: &ChunkBytes,
    login: &Login,
) -> Result<(), IdentityError> {
    let Some(shadow) = builder.read(SHADOW, bytes)? else {
        return Ok(());
    };
    let name = login.user.as_bytes();
    let locked = |fields: &Vec<Vec<u8>>| fields.get(1).is_some_and(|f| f.starts_with(b"!"));
    if !fields_of(&shadow, name).is_some_and(|fields| locked(&fields)) {
        return Ok(());
    }
    let mut changed = Vec::with_capacity(shadow.len());
    for line in lines(&shadow) {
        let mut fields: Vec<_> = line.split(|&b| b == b':').collect();
        if fields[0] == name && fields.len() > 1 {
            fields[1] = NO_PASSWORD.as_bytes();
        }
        changed.extend_from_slice(&fields.join(&b':'));
        changed.push(b'\n');
    }
    builder.write(SHADOW, &changed, 0o640)
}

/// Makes a user with a group and a home directory of their own.
fn create(
    builder: &mut Builder<'_>,
    bytes: &ChunkBytes,
    login: &Login,
    passwd: &[u8],
) -> Result<User, IdentityError> {
    let name = &login.user;
    let no_free_id = || IdentityError::NoFreeId(name.clone());
    let group = builder.read(GROUP, bytes)?.unwrap_or_default();
    let (uids, gids) = (numbers(passwd), numbers(&group));
    let people = FIRST_UID..=LAST_UID;
    let uid = match login.uid {
        Some(uid) if uids.contains(&uid) || uid == u32::MAX => return Err(no_free_id()),
        Some(uid) => uid,
        // A number that is free for the group too gives both the same.
        None => people
            .clone()
            .find(|id| !uids.contains(id) && !gids.contains(id))
            .ok_or_else(no_free_id)?,
    };
    let own_group = fields_of(&group, name.as_bytes());
    let gid = match &own_group {
        Some(fields) => fields
            .get(2)
            .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok())
            .ok_or_else(|| IdentityError::DamagedUser(name.clone()))?,
        None if gids.contains(&uid) => {
            let mut free = people.filter(|id| !gids.contains(id));
            free.next().ok_or_else(no_free_id)?
        }
        None => uid,
    };
    let home = format!("home/{name}");
    let shell = SHELLS.iter().find(|shell| builder.exists(&shell[1..]));
    let shell = shell.unwrap_or(&SHELLS[1]);
    append(
        builder,
        PASSWD,
        passwd,
        &format!("{name}:x:{uid}:{gid}::/{home}:{shell}"),
    )?;
    if own_group.is_none() {
        append(builder, GROUP, &group, &format!("{name}:x:{gid}:"))?;
        if let Some(gshadow) = builder.read(GSHADOW, bytes)? {
            append(builder, GSHADOW, &gshadow, &format!("{name}:!::"))?;
        }
    }
    let shadow = builder.read(SHADOW, bytes)?.unwrap_or_default();
    let today = builder.time.seconds.div_euclid(DAY_SECONDS).max(1);
    append(
        builder,
        SHADOW,
        &shadow,
        &format!("{name}:{NO_PASSWORD}:{today}:0:99999:7:::"),
    )?;
    let home = known(&home);
    let user = User { uid, gid, home };
    make_home(builder, &user)?;
    Ok(user)
}

/// The numbers of the users or groups of a file.
fn numbers(file: &[u8]) -> Vec<u32> {
    let number = |line: &[u8]| {
        let field = line.split(|&b| b == b':').nth(2)?;
        std::str::from_utf8(field).ok()?.parse().ok()
    };
    lines(file).filter_map(number).collect()
}

fn append(
    builder: &mut Builder<'_>,
    path: &str,
    file: &[u8],
    line: &str,
) -> Result<(), IdentityError> {
    let mut changed = file.to_vec();
    if !file.is_empty() && !file.ends_with(b"\n") {
        changed.push(b'\n');
    }
    changed.extend_from_slice(line.as_bytes());
    changed.push(b'\n');
    let mode = match path {
        SHADOW | GSHADOW => 0o640,
        _ => 0o644,
    };
    builder.write(path, &changed, mode)
}

/// Makes a home directory with the files of `/etc/skel`, as useradd(8) does.
fn make_home(builder: &mut Builder<'_>, user: &User) -> Result<(), IdentityError> {
    if builder.find(&user.home).is_some() {
        return Ok(());
    }
    let attrs = owned(builder, user, 0o755);
    builder.directory(&user.home, attrs)?;
    let skel = known(SKEL);
    for name in builder.names_in(&skel) {
        let (Ok(from), Ok(to)) = (skel.join(&name), user.home.join(&name)) else {
            continue;
        };
        let Some(node) = builder.find(&from) else {
            continue;
        };
        if let NodeData::File(content) = &node.data {
            let attrs = owned(builder, user, node.attrs.mode);
            builder.put(&to, attrs, Kind::File(content.clone()))?;
        }
    }
    Ok(())
}

/// Attributes of something of the user's.
fn owned(builder: &Builder<'_>, user: &User, mode: u16) -> Attrs {
    Attrs {
        uid: user.uid,
        gid: user.gid,
        ..builder.root_attrs(mode)
    }
}

/// Writes the user's keys where the SSH server looks for them, with the modes that it insists on.
fn authorize(builder: &mut Builder<'_>, login: &Login, user: &User) -> Result<(), IdentityError> {
    let no_home = || IdentityError::DamagedUser(login.user.clone());
    let directory = [user.home.as_bytes(), b"/.ssh"].concat();
    let directory = directory.strip_prefix(b"/").unwrap_or(&directory);
    let directory = TreePath::new(directory).map_err(|_| no_home())?;
    let attrs = owned(builder, user, 0o700);
    builder.directory(&directory, attrs)?;
    let keys: String = (login.authorized_keys.iter())
        .map(|key| format!("{}\n", key.trim()))
        .collect();
    let path = [directory.as_bytes(), b"/authorized_keys"].concat();
    let path = TreePath::new(&path).map_err(|_| no_home())?;
    let attrs = owned(builder, user, 0o600);
    builder.put_file(&path, keys.as_bytes(), attrs)
}
