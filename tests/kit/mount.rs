//! Mounts a store by the real command, in a process of its own. Never leaves a mount or a server behind, also after a
//! panic, and never lets a test wait for ever: what hangs is broken up by a watchdog, and the test fails.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::chown;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use crate::connection::{break_up, detach, minor_of, mount_points};
use crate::run::{Ran, binary, ckpt};
use crate::shim::{Fault, Watch};

/// How long a mount may take to be there, and a server to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a server that is killed is waited for.
const DIES: Duration = Duration::from_secs(2);
/// How long a mount may be used, if nothing else is said.
const LIMIT: Duration = Duration::from_secs(120);
/// A user who is nobody, for tests of what one without rights can do.
pub const NOBODY: u32 = 65534;

/// Whether this machine lets this user mount by FUSE at all. Says so when it doesn't: then a test of a mount has
/// nothing to do.
pub fn mountable() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &device {
        skip(&format!("/dev/fuse can't be opened here: {error}"));
    }
    device.is_ok()
}

/// Says why a test is skipped. Where setup had to bring all that tests need nothing is: a mount that was never made
/// proves nothing.
///
/// # Panics
/// As root with `CI` in the environment.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none() || !is_root(), "nothing is skipped in CI: {why}");
    eprintln!("skipped: {why}");
}

/// Whether the tests run as root, who needs no helper to mount.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a program is there to be run.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if !has {
        skip(&format!("{name} is not installed"));
    }
    has
}

/// How a store is to be mounted.
pub struct Mounting {
    store: PathBuf,
    at: PathBuf,
    args: Vec<OsString>,
    user: Option<u32>,
    limit: Duration,
    program: PathBuf,
    wrapper: Vec<OsString>,
    fault: Option<(Fault, PathBuf)>,
}

impl Mounting {
    /// The store in `store` at the directory `at`, which is made when it is missing.
    pub fn new(store: &Path, at: &Path) -> Self {
        let (store, at) = (store.to_owned(), at.to_owned());
        let (args, wrapper) = (Vec::new(), Vec::new());
        Self { store, at, args, user: None, limit: LIMIT, program: binary(), wrapper, fault: None }
    }

    /// With these arguments more.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// By another user. The store must be one that they may use.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// For at most this long: then the watchdog breaks it up.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// By another copy of the command.
    #[must_use]
    pub fn by(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// By way of a program that runs the command which follows its arguments.
    #[must_use]
    pub fn under<A: AsRef<OsStr>>(mut self, program: impl IntoIterator<Item = A>) -> Self {
        self.wrapper = program.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self
    }

    /// With the layer under the server that lets a call on a path below `root` fail.
    #[must_use]
    pub fn faulty(mut self, fault: Fault, root: &Path) -> Self {
        self.fault = Some((fault, root.to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut words = self.wrapper.iter().map(OsString::as_os_str).chain([self.program.as_os_str()]);
        let mut serve = Command::new(words.next().unwrap_or_default());
        serve.args(words).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        serve.arg("--store").arg(&self.store).arg("mount").arg(&self.at).arg("--foreground").args(&self.args);
        if let Some(uid) = self.user {
            serve.uid(uid).gid(uid);
        }
        // SAFETY: one call to the kernel, which touches no memory of this process. It ends the server when the thread
        // that started it is no more, however that came.
        unsafe {
            serve.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            })
        };
        serve
    }

    /// Mounts it, and waits until it is there. The server ends when the thread that called this does.
    ///
    /// # Panics
    /// When it does not within 20 seconds.
    #[track_caller]
    pub fn start(self) -> Mount {
        // On one that a dead server has left nothing can be asked, so it is asked above.
        let (above, name) = (self.at.parent().expect("not the root"), self.at.file_name().expect("a name"));
        fs::create_dir_all(above).expect("directories can be made");
        let at = fs::canonicalize(above).expect("it is there").join(name);
        if minor_of(&at).is_none() {
            fs::create_dir_all(&at).expect("a directory can be made");
        }
        if let Some(uid) = self.user {
            chown(&at, Some(uid), Some(uid)).expect("a directory can be given away");
        }
        let beside = |suffix: &[u8]| PathBuf::from(OsString::from_vec([at.as_os_str().as_bytes(), suffix].concat()));
        let (log, out) = (beside(b".log"), beside(b".out"));
        let [to_log, to_out] = [&log, &out].map(|path| File::create(path).expect("a file beside it can be written"));
        let mut serve = self.command();
        serve.stdin(Stdio::null()).stdout(to_out).stderr(to_log);
        let watch = self.fault.as_ref().map(|(fault, root)| fault.under(&mut serve, root));
        let server = serve.spawn().expect("the command starts");
        let (told, watched) = channel();
        let mut mount = Mount { store: self.store, at, log, server, watch, stays: false, watchdog: None };
        let started = Instant::now();
        let minor = loop {
            // It says so when it has been looked at.
            let is_ready = fs::read(&out).is_ok_and(|told| told.ends_with(b"\n"));
            if let Some(minor) = minor_of(&mount.at).filter(|_| is_ready) {
                break minor;
            }
            let ended = mount.server.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "mount ended with {ended:?}: {}", mount.log());
            assert!(started.elapsed() <= PATIENCE, "nothing was mounted: {}", mount.log());
            thread::sleep(Duration::from_millis(5));
        };
        let (at, limit) = (mount.at.clone(), self.limit);
        let (hung, server) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(mount.server.id())));
        let (is_hung, its_id) = (Arc::clone(&hung), Arc::clone(&server));
        let watch = move || {
            if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                is_hung.store(true, Ordering::SeqCst);
                eprintln!("{} is used for more than {limit:?}: it is broken up", at.display());
                break_up(&at, minor, its_id.load(Ordering::SeqCst));
            }
        };
        mount.watchdog = Some(Watchdog { told, hung, server, thread: thread::spawn(watch) });
        mount
    }
}

/// A mounted store. Dropping it ends the server, which must unmount and end well.
pub struct Mount {
    store: PathBuf,
    at: PathBuf,
    log: PathBuf,
    server: Child,
    /// What the layer under it has seen, where there is one.
    watch: Option<Watch>,
    /// Whether the server is no more, or is not to be judged.
    stays: bool,
    watchdog: Option<Watchdog>,
}

struct Watchdog {
    told: Sender<()>,
    hung: Arc<AtomicBool>,
    /// The process to kill; 0 once nobody is to be.
    server: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Mount {
    /// Mounts the store in `store` at `at`.
    #[track_caller]
    pub fn new(store: &Path, at: &Path) -> Self {
        Mounting::new(store, at).start()
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// A path in it.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.at.join(relative)
    }

    /// The process that answers.
    pub fn server(&self) -> u32 {
        self.server.id()
    }

    /// Whether a call of the server failed that was to.
    pub fn has_failed(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.fired().is_some())
    }

    /// What the server has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What `/proc/<server>/status` has under this name, which is a number of kB or of things.
    pub fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server())).expect("the server lives");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// Descriptors that the server has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.server())).expect("the server lives").count()
    }

    /// Whether the server has ended, or is about to.
    pub fn is_ending(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.server())).unwrap_or_default();
        // Its name, which may hold anything, stands in parentheses before.
        stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']))
    }

    /// Ends the server as the kernel ends one that takes all memory: it can't unmount. One that was telling the kernel
    /// news goes on for as long as nobody cuts it off.
    pub fn kill(&mut self) {
        self.spare();
        self.server.kill().expect("a child can be killed");
        self.wait(DIES);
        self.stays = true;
    }

    /// `ckpt umount`, after which the server must end well.
    ///
    /// # Panics
    /// When it doesn't.
    #[track_caller]
    pub fn umount(mut self) -> Ran {
        let ran = ckpt(&self.store, [OsStr::new("umount"), self.at.as_os_str()]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        self.spare();
        let ended = self.wait(PATIENCE).unwrap_or_else(|| panic!("the server goes on: {}", self.log()));
        assert!(ended.success(), "{ended}: {}", self.log());
        assert!(minor_of(&self.at).is_none(), "it is still mounted");
        self.stays = true;
        ran
    }

    /// Tells the watchdog that the server's number may soon be another's.
    fn spare(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.server.store(0, Ordering::SeqCst);
        }
    }

    /// Waits for the server to end, but not for ever.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            let ended = self.server.try_wait().expect("a child can be waited for");
            if ended.is_some() || started.elapsed() > patience {
                return ended;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut wrong = None;
        self.spare();
        if !self.stays {
            // SAFETY: a signal to a child that was not waited for yet, so that nobody else has its number.
            unsafe { libc::kill(self.server.id().cast_signed(), libc::SIGTERM) };
            match self.wait(PATIENCE) {
                Some(ended) if ended.success() => {}
                // A watchdog killed it.
                Some(ended) if ended.signal() == Some(libc::SIGKILL) => {}
                Some(ended) => wrong = Some(format!("the server ended with {ended}")),
                None => wrong = Some("the server does not end on SIGTERM".to_owned()),
            }
        }
        if let Some(Watchdog { told, hung, thread, .. }) = self.watchdog.take() {
            drop(told);
            let _ = thread.join();
            if hung.load(Ordering::SeqCst) {
                wrong = Some("it hung".to_owned());
            }
        }
        if let Some(minor) = minor_of(&self.at) {
            if !self.stays && wrong.is_none() {
                wrong = Some("the server left its mount".to_owned());
            }
            // Also one that was left by another server, which may not be able to die before.
            let has_ended = self.server.try_wait().is_ok_and(|ended| ended.is_some());
            break_up(&self.at, minor, if has_ended { 0 } else { self.server.id() });
        } else {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
        if thread::panicking() {
            eprintln!("the server said: {}", self.log());
        } else if let Some(wrong) = wrong {
            panic!("{wrong}: {}", self.log());
        }
    }
}
