//! The last good records on disk, for a start while the control plane is away.
//!
//! One file per record, named by the hash of the record's name; its first line says what it is
//! and has the hash of the rest. A file that does not fit its own words is removed and reported,
//! never applied.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk;
use super::frame::{MAX_FRAME_BYTES, Record};

/// Files read at a start; more than a hub lets one sidecar subscribe to.
const MAX_RECORDS: usize = 8192;
/// Records written per flush, so that a slow disk does not hold up the stream for long.
const MAX_WRITES: usize = 64;
const SUFFIX: &str = "record";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: String,
    version: String,
    sha256: String,
}

/// Records to be kept; changes wait in memory, newest wins, until [`Cache::flush`].
#[derive(Debug)]
pub(super) struct Cache {
    /// `None`: nothing is kept.
    dir: Option<PathBuf>,
    /// By name; `None` is a removal.
    waiting: BTreeMap<String, Option<(String, Bytes)>>,
}

impl Cache {
    /// The cache below a state directory.
    pub(super) fn open(state_dir: Option<&Path>) -> io::Result<Self> {
        let dir = state_dir.map(|dir| dir.join("records"));
        if let Some(dir) = &dir {
            disk::make_dir(dir)?;
        }
        Ok(Self {
            dir,
            waiting: BTreeMap::new(),
        })
    }

    /// A cache that keeps nothing.
    pub(super) fn nowhere() -> Self {
        Self {
            dir: None,
            waiting: BTreeMap::new(),
        }
    }

    /// Everything that is whole, and a sentence for each file that was not.
    pub(super) fn load(&self) -> (Vec<Record>, Vec<String>) {
        let (mut records, mut problems) = (Vec::new(), Vec::new());
        let Some(dir) = &self.dir else {
            return (records, problems);
        };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                problems.push(format!("{}: {error}", dir.display()));
                return (records, problems);
            }
        };
        for path in entries
            .flatten()
            .map(|entry| entry.path())
            .take(MAX_RECORDS)
        {
            match path.extension().and_then(|suffix| suffix.to_str()) {
                Some(SUFFIX) => match load_one(&path) {
                    Ok(record) => records.push(record),
                    Err(why) => {
                        problems.push(format!("{}: {why}; removed", path.display()));
                        let _ = fs::remove_file(&path);
                    }
                },
                Some(disk::UNFINISHED) => {
                    let _ = fs::remove_file(&path);
                }
                _ => {}
            }
        }
        // Trust and policy come before the services that need them.
        records.sort_by(|a, b| b.name.cmp(&a.name));
        (records, problems)
    }

    pub(super) fn put(&mut self, name: &str, version: &str, data: Bytes) {
        if self.dir.is_some() {
            let kept = Some((version.to_owned(), data));
            self.waiting.insert(name.to_owned(), kept);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.dir.is_some() {
            self.waiting.insert(name.to_owned(), None);
        }
    }

    /// Whether changes wait.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes some of what waits. What fails stays, to be tried at the next call.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        if self.waiting.is_empty() {
            return Ok(());
        }
        for _ in 0..MAX_WRITES {
            let Some(entry) = self.waiting.first_entry() else {
                break;
            };
            let path = dir.join(file_name(entry.key()));
            match entry.get() {
                Some((version, data)) => store_one(&path, entry.key(), version, data)?,
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
            entry.remove();
        }
        disk::sync_dir(dir)
    }
}

/// However the control thread ends, what it held is there at the next start.
impl Drop for Cache {
    fn drop(&mut self) {
        while self.waits() && self.flush().is_ok() {}
    }
}

fn store_one(path: &Path, name: &str, version: &str, data: &[u8]) -> io::Result<()> {
    let head = Head {
        name: name.to_owned(),
        version: version.to_owned(),
        sha256: hex_sha256(data),
    };
    let mut line = serde_json::to_vec(&head).map_err(io::Error::other)?;
    line.push(b'\n');
    disk::replace(path, &[&line, data])
}

fn load_one(path: &Path) -> Result<Record, String> {
    // Twice a frame: the record itself, and a head that is far shorter.
    let bytes = disk::read(path, 2 * MAX_FRAME_BYTES)
        .map_err(|error| error.to_string())?
        .ok_or("is gone")?;
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("has no head")?;
    let head: Head =
        serde_json::from_slice(&bytes[..end]).map_err(|error| format!("head: {error}"))?;
    let data = Bytes::from(bytes).slice(end + 1..);
    if hex_sha256(&data) != head.sha256 {
        return Err("is damaged".to_owned());
    }
    if path.file_name().and_then(|name| name.to_str()) != Some(&*file_name(&head.name)) {
        return Err(format!("is the file of another record than {}", head.name));
    }
    Ok(Record {
        name: head.name,
        version: head.version,
        data,
    })
}

/// Not the name itself: it may be longer than a file's, and comes from outside.
fn file_name(name: &str) -> String {
    format!("{}.{SUFFIX}", &hex_sha256(name.as_bytes())[..32])
}

fn hex_sha256(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    use crate::control::test_dir::TestDir;

    fn record(name: &str, version: &str) -> Record {
        Record {
            name: name.to_owned(),
            version: version.to_owned(),
            data: Bytes::from(format!("{{\"n\":\"{name}\"}}\n\n")),
        }
    }

    fn filled(dir: &Path, names: &[&str]) {
        let mut cache = Cache::open(Some(dir)).unwrap();
        for name in names {
            let Record { data, .. } = record(name, "1");
            cache.put(name, "1", data);
        }
        cache.flush().unwrap();
    }

    #[test]
    fn records_come_back_with_trust_and_workload_first() {
        let dir = TestDir::new();
        let names = ["endpoints/s/a", "service/s/a", "trust/d", "workload/s/a"];
        filled(dir.path(), &names);

        let (records, problems) = Cache::open(Some(dir.path())).unwrap().load();

        let expected: Vec<_> = ["workload/s/a", "trust/d", "service/s/a", "endpoints/s/a"]
            .iter()
            .map(|name| record(name, "1"))
            .collect();
        assert_eq!(expected, records);
        assert!(problems.is_empty());
    }

    #[test]
    fn the_newest_version_wins_and_a_removed_record_is_gone() {
        let dir = TestDir::new();
        filled(dir.path(), &["service/s/a", "service/s/b"]);
        let mut cache = Cache::open(Some(dir.path())).unwrap();

        cache.put("service/s/a", "2", Bytes::from_static(b"2"));
        cache.put("service/s/a", "3", Bytes::from_static(b"3"));
        cache.remove("service/s/b");
        cache.remove("service/s/never-held");
        cache.flush().unwrap();

        let (records, _) = cache.load();
        assert_eq!(1, records.len());
        assert_eq!(("3", &b"3"[..]), (&*records[0].version, &*records[0].data));
    }

    #[test]
    fn a_damaged_file_is_reported_removed_and_does_not_hide_the_others() {
        let dir = TestDir::new();
        filled(dir.path(), &["service/s/a", "service/s/b", "service/s/c"]);
        let records = dir.path().join("records");
        let damaged = records.join(file_name("service/s/a"));
        let mut bytes = fs::read(&damaged).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&damaged, bytes).unwrap();
        fs::write(records.join(file_name("service/s/c")), b"").unwrap();
        fs::write(records.join("half.unfinished"), b"x").unwrap();

        let (loaded, problems) = Cache::open(Some(dir.path())).unwrap().load();

        assert_eq!(vec![record("service/s/b", "1")], loaded);
        assert_eq!(2, problems.len());
        assert_eq!(1, fs::read_dir(&records).unwrap().count());
    }

    #[test]
    fn a_file_under_another_records_name_is_refused() {
        let dir = TestDir::new();
        filled(dir.path(), &["service/s/a"]);
        let records = dir.path().join("records");
        fs::rename(
            records.join(file_name("service/s/a")),
            records.join(file_name("workload/s/a")),
        )
        .unwrap();

        let (loaded, problems) = Cache::open(Some(dir.path())).unwrap().load();

        assert!(loaded.is_empty());
        assert!(problems[0].contains("another record"), "{problems:?}");
    }

    #[test]
    fn only_the_owner_can_read() {
        let dir = TestDir::new();
        filled(dir.path(), &["service/s/a"]);

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let records = dir.path().join("records");
        assert_eq!(0o700, mode(&records));
        assert_eq!(0o600, mode(&records.join(file_name("service/s/a"))));
    }

    #[test]
    fn a_flush_is_bounded_and_the_rest_follows() {
        let dir = TestDir::new();
        let mut cache = Cache::open(Some(dir.path())).unwrap();
        for number in 0..=MAX_WRITES {
            cache.put(&format!("service/s/{number}"), "1", Bytes::new());
        }

        cache.flush().unwrap();
        assert_eq!(MAX_WRITES, cache.load().0.len());
        cache.flush().unwrap();
        assert_eq!(MAX_WRITES + 1, cache.load().0.len());
    }
}
