//! The output of an export. A file is complete or not there: an export writes to the part, a file
//! beside its place, and renames the part at the end. `--resume` goes on with the part of an export
//! that ended early.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Fault, source::STANDARD};

/// Most links that a name may lead over.
const MOST_LINKS: usize = 40;

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
    /// Standard output, a pipe or a device.
    Stream(Stream),
    /// A file.
    Part(Part),
}

/// Standard output, a pipe or a device. Both opening it and writing to it can wait for its reader
/// without end, so a thread does them. The process can end while the thread waits; the runtime
/// would wait for a blocking task.
pub struct Stream {
    pages: mpsc::Sender<Vec<u8>>,
    results: mpsc::Receiver<io::Result<()>>,
}

/// A file that is not complete.
pub struct Part {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    /// Whether the cursor beside the part belongs to it.
    is_noted: bool,
}

impl Output {
    /// Opens the output of a new export. Waits until a pipe has a reader.
    pub async fn create(file: &str) -> Result<Self, Fault> {
        if file == STANDARD {
            let opened = Stream::open(None).await;
            return opened.map(Self::Stream).map_err(|error| named(Path::new(file), &error));
        }
        let path = target(file)?;
        if path.is_dir() {
            return Err(Fault::Usage(format!("{}: is a directory", path.display())));
        }
        if is_no_file(&path) {
            let opened = Stream::open(Some(path.clone())).await;
            return opened.map(Self::Stream).map_err(|error| named(&path, &error));
        }
        let create = || {
            let part = open_part(&path, true)?;
            // The cursor of an earlier export must not be beside this part, even if the process is
            // killed before it writes its own.
            remove(&cursor(&path))?;
            part.set_len(0)?;
            Ok::<_, io::Error>(part)
        };
        let opened = create().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let folder = folder(&path).display();
                Fault::Failed(format!("{file}: there is no folder {folder}"))
            } else {
                named(&part(&path), &error)
            }
        })?;
        let file = BufWriter::new(opened);
        Ok(Self::Part(Part { path, file, written: 0, is_noted: false }))
    }

    /// Opens the part of an export with these options that ended early, and returns where that
    /// export stands. Cuts what is written behind that.
    pub fn resume(file: &str, options: &str) -> Result<(Self, Standing), Fault> {
        if file == STANDARD {
            return Err(Fault::Usage("--resume: needs a file".into()));
        }
        let path = target(file)?;
        if path.exists() && !path.is_file() {
            return Err(Fault::Usage(format!("--resume: {}: is no file", path.display())));
        }
        let (part, cursor) = (part(&path), cursor(&path));
        let unusable = |path: &Path, why: &dyn std::fmt::Display| {
            Fault::Usage(format!("--resume: {}: {why}; export without it", path.display()))
        };
        // The lock comes first: without it another export could go on with the part or rename it.
        let mut opened = open_part(&path, false).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unusable(&part, &error),
            _ => named(&part, &error),
        })?;
        require_file(&cursor).map_err(|error| unusable(&cursor, &error))?;
        let noted = fs::read(&cursor).map_err(|error| unusable(&cursor, &error))?;
        let standing: Standing =
            serde_json::from_slice(&noted).map_err(|error| unusable(&cursor, &error))?;
        if standing.options != options {
            return Err(Fault::Usage(
                "--resume: the options differ from those of the export that ended early".into(),
            ));
        }
        let length = opened.metadata().map_err(|error| named(&part, &error))?.len();
        if length < standing.length {
            return Err(unusable(&part, &"is shorter than noted"));
        }
        opened
            .set_len(standing.length)
            .and_then(|()| opened.seek(SeekFrom::Start(standing.length)))
            .map_err(|error| named(&part, &error))?;
        let file = BufWriter::new(opened);
        let part = Part { path, file, written: standing.length, is_noted: true };
        Ok((Self::Part(part), standing))
    }

    /// Whether `--resume` can go on with what is written.
    pub const fn can_resume(&self) -> bool {
        matches!(self, Self::Part(Part { is_noted: true, .. }))
    }

    /// Writes bytes.
    pub async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write(bytes).await,
            Self::Part(part) => {
                part.written += bytes.len() as u64;
                part.file.write_all(&bytes)
            }
        }
    }

    /// Makes what is written last, and notes where the export stands.
    pub fn note(&mut self, mut standing: Standing) -> io::Result<()> {
        let Self::Part(part) = self else { return Ok(()) };
        part.file.flush()?;
        part.file.get_ref().sync_data()?;
        standing.length = part.written;
        let (noted, new) = (cursor(&part.path), cursor(&part.path).with_extension("new"));
        require_file(&new)?;
        fs::write(&new, serde_json::to_vec(&standing)?)?;
        fs::rename(new, noted)?;
        part.is_noted = true;
        Ok(())
    }

    /// Puts the file into its place.
    pub fn finish(self) -> io::Result<()> {
        let Self::Part(mut part) = self else { return Ok(()) };
        part.file.flush()?;
        part.file.get_ref().sync_all()?;
        // This must come before the renaming: afterwards another export can write its cursor here.
        remove(&cursor(&part.path))?;
        if let Ok(before) = fs::metadata(&part.path) {
            part.file.get_ref().set_permissions(before.permissions())?;
        }
        fs::rename(self::part(&part.path), &part.path)?;
        // The folder has the name of the file. One that may be written to and not read cannot be
        // opened, and neither can any folder on Windows.
        match File::open(folder(&part.path)) {
            Ok(folder) => folder.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Stream {
    /// Opens a pipe or a device, or standard output if there is no path.
    async fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let (pages, mut to_write) = mpsc::channel(1);
        let (sender, results) = mpsc::channel(1);
        thread::spawn(move || {
            if let Err(error) = write_pages(path.as_deref(), &mut to_write, &sender) {
                // Nobody waits for it if the export was interrupted.
                let _ = sender.blocking_send(Err(error));
            }
        });
        let mut stream = Self { pages, results };
        stream.result().await?;
        Ok(stream)
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        // If the thread has ended, there is no result.
        let _ = self.pages.send(bytes).await;
        self.result().await
    }

    /// The result of what the thread does.
    async fn result(&mut self) -> io::Result<()> {
        let result = self.results.recv().await;
        result.unwrap_or_else(|| Err(io::Error::other("the thread that writes has ended")))
    }
}

/// Opens a stream and writes each page to it. Sends a result when the stream is open, and after
/// each page.
fn write_pages(
    path: Option<&Path>,
    pages: &mut mpsc::Receiver<Vec<u8>>,
    results: &mpsc::Sender<io::Result<()>>,
) -> io::Result<()> {
    let mut out: Box<dyn Write> = match path {
        Some(path) => Box::new(OpenOptions::new().write(true).open(path)?),
        None => Box::new(io::stdout()),
    };
    while results.blocking_send(Ok(())).is_ok()
        && let Some(page) = pages.blocking_recv()
    {
        out.write_all(&page)?;
        out.flush()?;
    }
    Ok(())
}

/// Opens the part of a file and locks it. An export holds the lock until it has renamed the part.
fn open_part(path: &Path, create: bool) -> io::Result<File> {
    let part = part(path);
    require_file(&part)?;
    let mut options = OpenOptions::new();
    options.write(true).create(create).truncate(false);
    // Only the owner may read a part that replaces a file, which may have secrets. `finish` gives it
    // the mode of the file. With a mode such as 0444 the part could not be opened again.
    #[cfg(unix)]
    let replaces = path.exists();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(if replaces { 0o600 } else { 0o666 });
    }
    let file = options.open(&part)?;
    let is_locked = file.try_lock().is_ok();
    // Another export may have renamed it after it was opened here.
    let about = file.metadata()?;
    let is_in_place = fs::metadata(&part).is_ok_and(|there| is_same(&there, &about));
    if !is_locked || !is_in_place {
        return Err(io::Error::other("another export writes it"));
    }
    #[cfg(unix)]
    if replaces {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Whether there is something at the path that must not be replaced by a file: a pipe, a device.
pub fn is_no_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir())
}

/// The file that a name leads to, also over links, which stay links. The file need not exist.
fn target(file: &str) -> Result<PathBuf, Fault> {
    let mut path = PathBuf::from(file);
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            // What a link such as /dev/stdout says need not be the path of the pipe.
            Ok(next) if !is_no_file(&path) => path = folder(&path).join(next),
            _ => return Ok(path),
        }
    }
    Err(named(Path::new(file), &"leads over too many links"))
}

/// Fails if there is something at the path of a part or a cursor that no export has made: a link
/// leads elsewhere, and a pipe waits for its other end.
fn require_file(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(about) if !about.is_file() => Err(io::Error::other("is no file of an export")),
        _ => Ok(()),
    }
}

/// Removes a file that need not exist.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(length: u64) -> Standing {
        Standing {
            cursor: "c".into(),
            length,
            accounts: 1,
            watch_cursor: String::new(),
            options: "options".into(),
        }
    }

    #[test]
    fn an_export_goes_on_only_with_its_own_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let file = path.to_str().unwrap();
        fs::write(cursor(&path), serde_json::to_vec(&standing(3)).unwrap()).unwrap();
        let resume = || Output::resume(file, "options");
        let missing = resume();
        assert!(matches!(missing, Err(Fault::Usage(said)) if said.contains("export without it")));
        assert!(!part(&path).exists(), "it makes no part");
        fs::write(part(&path), "12").unwrap();
        let short = resume();
        assert!(matches!(short, Err(Fault::Usage(said)) if said.contains("shorter than noted")));
        assert_eq!(fs::read(part(&path)).unwrap(), b"12", "it does not lengthen the part");
        fs::write(part(&path), "12345").unwrap();
        let other = Output::resume(file, "other options");
        assert!(matches!(other, Err(Fault::Usage(said)) if said.contains("the options differ")));
        assert_eq!(fs::read(part(&path)).unwrap(), b"12345", "it does not cut the part");
        let (_output, known) = resume().unwrap();
        assert_eq!(known.length, 3);
        assert_eq!(fs::read(part(&path)).unwrap(), b"123");
        let second = resume();
        assert!(matches!(second, Err(Fault::Failed(said)) if said.contains("another export")));
    }

    #[tokio::test]
    async fn a_new_export_has_no_cursor_until_it_has_noted_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        fs::write(part(&path), "earlier").unwrap();
        fs::write(cursor(&path), serde_json::to_vec(&standing(7)).unwrap()).unwrap();
        let mut output = Output::create(path.to_str().unwrap()).await.unwrap();
        output.write(b"new".to_vec()).await.unwrap();
        assert!(!cursor(&path).exists() && !output.can_resume());
        output.note(standing(0)).unwrap();
        assert!(cursor(&path).exists() && output.can_resume());
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(!part(&path).exists() && !cursor(&path).exists());
    }
}
