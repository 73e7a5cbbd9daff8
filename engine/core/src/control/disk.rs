//! Files that are whole or absent, and readable by their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// What the name of a file that is not finished ends with.
pub(super) const UNFINISHED: &str = "unfinished";

/// Makes a directory of ours; its parents too.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Replaces a file: a crash at any moment leaves the old content or the new one.
///
/// The directory is synced by [`sync_dir`], once for several files.
pub(super) fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let unfinished = path.with_extension(UNFINISHED);
    let written = write_new(&unfinished, parts).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // On a full disk the half-written file would keep the space from everybody.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_new(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `create_new`: never through a link that somebody put there.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Makes renames and removals in a directory last.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a whole file of at most `limit` bytes; `None` when there is none.
pub(super) fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}
