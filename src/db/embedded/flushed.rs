//! Makes the engine's writes durable before its answers reach the client.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::socket;

/// Longer than one tick of the clock of any file system that is likely to hold the data.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// Until when the files of the data folder are known to be on disk.
pub(super) struct Flushed {
    pub(super) data: PathBuf,
    pub(super) until: SystemTime,
}

impl Flushed {
    /// Flushes the write-ahead log; after a checkpoint, all files.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let now = SystemTime::now() - CLOCK_TICK;
        if now < self.until {
            self.until = SystemTime::UNIX_EPOCH; // the clock was set back
        }
        let checkpointed =
            fs::metadata(self.data.join("global/pg_control"))?.modified()? >= self.until;
        let changed = if checkpointed { self.data.clone() } else { self.data.join("pg_wal") };
        flush(&changed, self.until)?;
        self.until = now;
        Ok(())
    }
}

/// Flushes the files below `folder` that have changed since `since`.
pub(super) fn flush(folder: &Path, since: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let flushed = fs::metadata(&path).and_then(|found| match found.modified()? {
            _ if found.is_dir() => flush(&path, since),
            changed if changed >= since => {
                File::options().read(true).write(true).open(&path)?.sync_data()
            }
            _ => Ok(()),
        });
        match flushed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    socket::flush_folder(folder, since)
}
