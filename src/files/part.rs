//! A file that is complete or not there: it is written beside its place, and renamed at the end.
//! What an export that ended early has written can be gone on with.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Fault, source::STANDARD};

/// Where an export stands, in a file beside its part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standing {
    /// The cursor of the service.
    pub cursor: String,
    /// The bytes that are written up to it.
    pub length: u64,
    /// The accounts in them.
    pub accounts: u64,
    /// The cursor of a watch.
    pub watch_cursor: String,
    /// What was asked for, which must not differ.
    pub options: String,
}

/// Where an export writes to.
pub enum Output {
    /// Standard output, or what else is no file, such as a pipe.
    Standard(BufWriter<Box<dyn Write>>),
    /// A file.
    Part(Part),
}

/// A file that is not complete.
pub struct Part {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
}

impl Output {
    /// Opens the output anew, or where the export stands that is gone on with.
    pub fn open(file: &str, standing: Option<&Standing>) -> Result<Self, Fault> {
        if file == STANDARD {
            return Ok(Self::Standard(BufWriter::new(Box::new(io::stdout()))));
        }
        let path = target(file);
        if path.is_dir() {
            return Err(Fault::Usage(format!("{}: is a directory", path.display())));
        }
        if is_no_file(&path) {
            let opened = OpenOptions::new().write(true).open(&path);
            let opened = opened.map_err(|error| named(&path, &error))?;
            return Ok(Self::Standard(BufWriter::new(Box::new(opened))));
        }
        let part = part(&path);
        let open = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(false).open(&part)?;
            // Whoever writes it has it locked, and it is in its place when they are done.
            if file.try_lock().is_err() || !is_same(&file.metadata()?, &fs::metadata(&part)?) {
                return Err(io::Error::other("another export writes it"));
            }
            if let Ok(before) = fs::metadata(&path) {
                file.set_permissions(before.permissions())?;
            }
            let written = standing.map_or(0, |standing| standing.length);
            file.set_len(written)?;
            file.seek(SeekFrom::End(0))?;
            Ok::<_, io::Error>((file, written))
        };
        let (opened, written) = open().map_err(|error| named(&part, &error))?;
        Ok(Self::Part(Part { path, file: BufWriter::new(opened), written }))
    }

    /// Writes bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.write_all(bytes),
            Self::Part(part) => {
                part.written += bytes.len() as u64;
                part.file.write_all(bytes)
            }
        }
    }

    /// Makes what is written last, and notes where the export stands.
    pub fn note(&mut self, mut standing: Standing) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::Part(part) => {
                part.file.flush()?;
                part.file.get_ref().sync_data()?;
                standing.length = part.written;
                let (noted, new) = (cursor(&part.path), cursor(&part.path).with_extension("new"));
                fs::write(&new, serde_json::to_vec(&standing)?)?;
                fs::rename(new, noted)
            }
        }
    }

    /// Puts the file into its place.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Standard(mut out) => out.flush(),
            Self::Part(mut part) => {
                part.file.flush()?;
                part.file.get_ref().sync_all()?;
                fs::rename(self::part(&part.path), &part.path)?;
                match fs::remove_file(cursor(&part.path)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                // The directory has the name of the file.
                let directory = part.path.parent().filter(|it| !it.as_os_str().is_empty());
                File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
            }
        }
    }
}

/// Whether there is something at the path that must not be replaced by a file: a pipe, a device.
pub fn is_no_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir())
}

/// Where the export of a file stands that ended early.
pub fn standing(file: &str) -> Result<Standing, Fault> {
    let (part, cursor) = (part(&target(file)), cursor(&target(file)));
    let missing = |path: &Path, error: &io::Error| {
        Fault::Usage(format!("--resume: {}: {error}; export without it", path.display()))
    };
    let noted = fs::read(&cursor).map_err(|error| missing(&cursor, &error))?;
    let standing: Standing =
        serde_json::from_slice(&noted).map_err(|error| named(&cursor, &error))?;
    let length = fs::metadata(&part).map_err(|error| missing(&part, &error))?.len();
    if length < standing.length {
        return Err(Fault::Usage(format!(
            "--resume: {} is shorter than noted; export without it",
            part.display()
        )));
    }
    Ok(standing)
}

/// Whether `--resume` finds where the export of a file stands.
pub fn can_resume(file: &str) -> bool {
    file != STANDARD && cursor(&target(file)).exists()
}

/// The file that a name leads to: a link stays a link.
fn target(file: &str) -> PathBuf {
    fs::canonicalize(file).unwrap_or_else(|_| file.into())
}

/// Whether two names lead to one file.
pub fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        true
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> Fault {
    Fault::Failed(format!("{}: {error}", path.display()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn part(path: &Path) -> PathBuf {
    beside(path, ".part")
}

fn cursor(path: &Path) -> PathBuf {
    beside(path, ".part.cursor")
}
