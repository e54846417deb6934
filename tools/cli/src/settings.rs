//! Settings from files: `/etc/shale/config.toml`, its drop-ins `/etc/shale/config.toml.d/*.toml` in order of their
//! names, and `$XDG_CONFIG_HOME/shale/config.toml`, the later over the earlier. A flag and a variable are over all.
//!
//! ```toml
//! repository = "https://registry.example"
//! mirrors = ["https://near.example"]
//! cache-size = "50G"
//!
//! [registry."https://near.example"]
//! token-file = "/etc/shale/near.token"
//!
//! [host]
//! fill-rate = "200M"
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use clap::ArgMatches;
use clap::parser::ValueSource;
use shale_client::Address;
use shale_hostd::api::Credentials;
use shale_wire::Fingerprint;
use toml::{Table, Value};

use crate::commands::parse_fill_rate;
use crate::failure::{Exit, Failure};
use crate::logging::{parse_log_format, parse_log_level};
use crate::output::parse_bytes;

/// The system's file, unless a variable names another.
const SYSTEM_FILE: &str = "/etc/shale/config.toml";

/// Names the system's file.
const SYSTEM_FILE_VARIABLE: &str = "SHALE_CONFIG";

/// Longest file that is read: some hundred times all settings.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What is for the repository of the same file or of one before it, and for no other.
const OF_REPOSITORY: [&str; 3] = ["token-file", "fingerprint", "mirrors"];

/// The section with what opens each registry, mirrors included, by its URL.
const REGISTRIES: &str = "registry.";

/// What such a section may say.
const OF_REGISTRY: [(&str, Check); 2] = [("token-file", path), ("fingerprint", fingerprint)];

/// Whether a text is a value.
type Check = fn(&str) -> Result<(), String>;

/// A setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its name in a file; what is in a section has the section's name and a dot before it.
    pub(crate) key: &'static str,
    /// Its variable.
    pub(crate) variable: Option<&'static str>,
    /// What it is where nobody says anything; `None` where that depends on the machine, or there is nothing.
    pub(crate) default: Option<&'static str>,
    check: Check,
}

/// All settings.
pub(crate) const SETTINGS: [Setting; 19] = [
    setting("repository", Some("SHALE_REPOSITORY"), None, place),
    setting("token-file", Some("SHALE_TOKEN_FILE"), None, path),
    setting("fingerprint", Some("SHALE_FINGERPRINT"), None, fingerprint),
    setting("mirrors", Some("SHALE_MIRRORS"), None, mirrors),
    setting("state", Some("SHALE_STATE"), None, path),
    setting("cache", Some("SHALE_CACHE"), None, path),
    setting("cache-size", Some("SHALE_CACHE_SIZE"), Some("10G"), size),
    setting(
        "host.fill-rate",
        Some("SHALE_FILL_RATE"),
        Some("100M"),
        rate,
    ),
    setting("host.user", None, None, user),
    setting("host.metrics", Some("SHALE_METRICS"), None, address),
    setting("host.insecure-metrics", None, Some("false"), switch),
    setting(
        "host.log-format",
        Some("SHALE_LOG_FORMAT"),
        Some("text"),
        log_format,
    ),
    setting(
        "host.log-level",
        Some("SHALE_LOG_LEVEL"),
        Some("info"),
        log_level,
    ),
    setting("server.listen", None, Some("127.0.0.1:7070"), address),
    setting("server.tls-cert", None, None, path),
    setting("server.tls-key", None, None, path),
    setting("server.tls-self-signed", None, Some("false"), switch),
    setting(
        "server.log-format",
        Some("SHALE_LOG_FORMAT"),
        Some("text"),
        log_format,
    ),
    setting(
        "server.log-level",
        Some("SHALE_LOG_LEVEL"),
        Some("info"),
        log_level,
    ),
];

const fn setting(
    key: &'static str,
    variable: Option<&'static str>,
    default: Option<&'static str>,
    check: Check,
) -> Setting {
    Setting {
        key,
        variable,
        default,
        check,
    }
}

/// The settings that the command line has as flags, as they were written.
#[derive(Debug, Default)]
pub(crate) struct Flags(BTreeMap<&'static str, String>);

impl Flags {
    /// Those of a command line.
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        let mut flags = BTreeMap::new();
        for setting in &SETTINGS {
            let id = setting.key.replace('-', "_");
            if matches.try_contains_id(&id).is_err()
                || matches.value_source(&id) != Some(ValueSource::CommandLine)
            {
                continue;
            }
            let raw = matches.get_raw(&id).into_iter().flatten();
            let texts = raw.map(|text| text.to_string_lossy().into_owned());
            // Only lists have more than one.
            flags.insert(setting.key, texts.collect::<Vec<_>>().join(","));
        }
        Self(flags)
    }

    /// A flag's value.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// A variable of this name.
    Variable(&'static str),
    /// This file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// Why the files are of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A file cannot be read.
    #[error("read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file is no TOML.
    #[error("`{}`: {source}", path.display())]
    Syntax {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    /// There is no such setting.
    #[error("`{}`: there is no setting `{key}`", path.display())]
    Unknown { path: PathBuf, key: String },
    /// A setting cannot have this value.
    #[error("`{}`: {key}: {reason}", path.display())]
    Value {
        path: PathBuf,
        key: String,
        reason: String,
    },
}

impl SettingsError {
    /// As the command line shows it.
    pub(crate) fn failure(self) -> anyhow::Error {
        match self {
            Self::Read { .. } => self.into(),
            _ => {
                let hint = "`shale config show` lists the settings that there are";
                Failure::new(Exit::Usage, self.to_string())
                    .hint(hint)
                    .into()
            }
        }
    }
}

/// The settings of all files together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, FromFile>,
    registries: Registries,
}

/// What opens registries: the URL and the name of a setting, and its value.
type Registries = BTreeMap<(String, &'static str), FromFile>;

/// A value, and the file that it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FromFile {
    text: String,
    path: PathBuf,
}

impl Settings {
    /// The settings of this machine and this user.
    pub(crate) fn load() -> Result<Self, SettingsError> {
        let system = env::var_os(SYSTEM_FILE_VARIABLE);
        let system = system.map_or_else(|| SYSTEM_FILE.into(), PathBuf::from);
        let mut paths = vec![system.clone()];
        paths.extend(drop_ins(&system)?);
        paths.extend(user_file());
        let mut files = Vec::new();
        for path in paths {
            let text = match read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(SettingsError::Read { path, source }),
            };
            files.push((path, text));
        }
        Self::merge(files)
    }

    /// What these files say together, the later over the earlier. Pure.
    fn merge(files: Vec<(PathBuf, String)>) -> Result<Self, SettingsError> {
        let mut merged = Self::default();
        for (path, text) in files {
            let table: Table = match text.parse() {
                Ok(table) => table,
                Err(source) => {
                    let source = Box::new(source);
                    return Err(SettingsError::Syntax { path, source });
                }
            };
            let file = values(&path, table)?;
            if file.values.contains_key("repository") {
                // A token is for the repository that it was named with.
                merged.values.retain(|key, _| !OF_REPOSITORY.contains(key));
            }
            merged.values.extend(file.values);
            merged.registries.extend(file.registries);
        }
        Ok(merged)
    }

    /// The value of a setting in the files.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.text.as_str())
    }

    /// The value of a setting in the files, as a path.
    pub(crate) fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// The value of a setting: `given` by a flag or a variable, or else that of the files, or else the default.
    pub(crate) fn pick<T>(
        &self,
        given: Option<T>,
        key: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        if let Some(given) = given {
            return Ok(given);
        }
        let default = SETTINGS.iter().find(|setting| setting.key == key);
        let default = default.and_then(|setting| setting.default);
        let text = self.text(key).or(default).unwrap_or_default();
        // It was parsed when the file was read.
        parse(text).map_err(|reason| {
            let text = format!("{key}: {reason}");
            Failure::new(Exit::Usage, text).into()
        })
    }

    /// Leaves out what opens a repository unless it is for this one, which somebody named instead of that of the files.
    pub(crate) fn without_credentials_unless_for(&mut self, repository: &str) {
        if self.text("repository") != Some(repository) {
            self.values.retain(|key, _| !OF_REPOSITORY.contains(key));
        }
    }

    /// What the sections of registries say of the one at this URL.
    pub(crate) fn credentials(&self, registry: &str) -> Credentials {
        let address = registry.parse::<Address>();
        let address = address.map_or_else(|_| registry.to_owned(), |address| address.to_string());
        let text = |name| {
            let found = self.registries.get(&(address.clone(), name));
            found.map(|value| value.text.clone())
        };
        Credentials {
            token_file: text("token-file").map(PathBuf::from),
            fingerprint: text("fingerprint"),
        }
    }

    /// The settings of the sections of registries, each with its value and where that is from.
    pub(crate) fn of_registries(&self) -> impl Iterator<Item = (String, String, Origin)> {
        let all = self.registries.iter();
        all.map(|((address, name), value)| {
            let key = format!("{REGISTRIES}\"{address}\".{name}");
            (key, value.text.clone(), Origin::File(value.path.clone()))
        })
    }

    /// A setting with its value and where that is from, if it has one. Pure.
    pub(crate) fn with_origin(
        &self,
        setting: &Setting,
        flag: Option<&str>,
        variable: Option<String>,
    ) -> Option<(String, Origin)> {
        if let Some(flag) = flag {
            return Some((flag.to_owned(), Origin::Flag));
        }
        if let (Some(name), Some(value)) = (setting.variable, variable) {
            return Some((value, Origin::Variable(name)));
        }
        if let Some(value) = self.values.get(setting.key) {
            return Some((value.text.clone(), Origin::File(value.path.clone())));
        }
        Some((setting.default?.to_owned(), Origin::Default))
    }
}

/// The settings of one file, each checked.
fn values(path: &Path, table: Table) -> Result<Settings, SettingsError> {
    let mut settings = Settings::default();
    for (key, value) in flat("", table) {
        let found = SETTINGS.iter().find(|setting| setting.key == key);
        let registry = of_registry(&key);
        let check = found.map(|setting| setting.check);
        let Some(check) = check.or(registry.map(|(_, _, check)| check)) else {
            let path = path.to_owned();
            return Err(SettingsError::Unknown { path, key });
        };
        let wrong = |reason| SettingsError::Value {
            path: path.to_owned(),
            key: key.clone(),
            reason,
        };
        let text = text_of(&key, value).map_err(wrong)?;
        check(&text).map_err(wrong)?;
        let path = path.to_owned();
        let value = FromFile { text, path };
        if let Some(setting) = found {
            settings.values.insert(setting.key, value);
        } else if let Some((address, name, _)) = registry {
            let address = address.parse::<Address>();
            let address = address.map_err(|error| wrong(error.to_string()))?;
            settings
                .registries
                .insert((address.to_string(), name), value);
        }
    }
    Ok(settings)
}

/// A value as a text: several texts are a list with commas, where there may be several.
fn text_of(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(switch) => Ok(switch.to_string()),
        Value::Array(list) if key == "mirrors" => {
            let texts = list.into_iter().map(|value| match value {
                Value::String(text) => Ok(text),
                _ => Err("a list of something else than texts".to_owned()),
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        _ => Err("neither a text, nor a number, nor true or false".to_owned()),
    }
}

/// The URL and the setting of a key in the section of a registry, and what values it has.
fn of_registry(key: &str) -> Option<(&str, &'static str, Check)> {
    let (address, name) = key.strip_prefix(REGISTRIES)?.rsplit_once('.')?;
    let found = OF_REGISTRY.iter().find(|(other, _)| *other == name);
    found.map(|(name, check)| (address, *name, *check))
}

/// Keys with the names of their sections before them.
fn flat(before: &str, table: Table) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (key, value) in table {
        let key = format!("{before}{key}");
        match value {
            Value::Table(section) => all.extend(flat(&format!("{key}."), section)),
            value => all.push((key, value)),
        }
    }
    all
}

/// The drop-ins of a file, in order of their names.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(SettingsError::Read { path: dir, source }),
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    let mut paths = paths.map_err(|source| SettingsError::Read { path: dir, source })?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    paths.sort();
    Ok(paths)
}

fn user_file() -> Option<PathBuf> {
    // Others are to be passed over (XDG Base Directory Specification).
    let base = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let base = base.filter(|base| base.is_absolute());
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    Some(base.or_else(home)?.join("shale/config.toml"))
}

fn read(path: &Path) -> io::Result<String> {
    io::read_to_string(io::Read::take(fs::File::open(path)?, MAX_FILE_BYTES))
}

/// The URL of a registry, or a directory.
fn place(text: &str) -> Result<(), String> {
    match text.contains("://") {
        true => Ok(()),
        false => path(text),
    }
}

/// Relative to what, a file does not say.
fn path(text: &str) -> Result<(), String> {
    match text.starts_with('/') {
        true => Ok(()),
        false => Err(format!("`{text}` is no path from the root")),
    }
}

fn fingerprint(text: &str) -> Result<(), String> {
    let parsed = text.parse::<Fingerprint>();
    parsed.map(drop).map_err(|error| error.to_string())
}

fn mirrors(text: &str) -> Result<(), String> {
    parse_mirrors(text).map(drop)
}

fn size(text: &str) -> Result<(), String> {
    parse_bytes(text).map(drop)
}

fn rate(text: &str) -> Result<(), String> {
    parse_fill_rate(text).map(drop)
}

fn user(text: &str) -> Result<(), String> {
    match text.is_empty() {
        true => Err("a user has a name; `root` is nobody else".into()),
        false => Ok(()),
    }
}

fn address(text: &str) -> Result<(), String> {
    parse_address(text).map(drop)
}

fn switch(text: &str) -> Result<(), String> {
    parse_switch(text).map(drop)
}

fn log_format(text: &str) -> Result<(), String> {
    parse_log_format(text).map(drop)
}

fn log_level(text: &str) -> Result<(), String> {
    parse_log_level(text).map(drop)
}

/// URLs of registries, with commas between them.
pub(crate) fn parse_mirrors(text: &str) -> Result<Vec<Address>, String> {
    let urls = text.split(',').filter(|url| !url.is_empty());
    let addresses = urls.map(|url| url.parse::<Address>().map_err(|error| error.to_string()));
    addresses.collect()
}

/// An address with its port.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("`{text}` is no address with a port"))
}

/// `true` or `false`.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("`{text}` is neither true nor false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(files: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let files = files.iter();
        Settings::merge(
            files
                .map(|(path, text)| (path.into(), (*text).to_owned()))
                .collect(),
        )
    }

    fn named(key: &str) -> &'static Setting {
        SETTINGS.iter().find(|setting| setting.key == key).unwrap()
    }

    #[test]
    fn the_last_file_wins_and_flags_and_variables_are_over_all() {
        let settings = merge(&[
            (
                "/etc/a",
                "cache-size = \"1G\"\nstate = \"/s\"\n[host]\nfill-rate = 5\n",
            ),
            ("/home/b", "cache-size = \"2G\"\n"),
        ])
        .unwrap();
        let size = named("cache-size");
        let of = |flag, variable: Option<&str>| {
            let variable = variable.map(str::to_owned);
            settings.with_origin(size, flag, variable).unwrap()
        };
        let pair = |text: &str, origin| (text.to_owned(), origin);
        assert_eq!(of(Some("4G"), Some("3G")), pair("4G", Origin::Flag));
        let variable = Origin::Variable("SHALE_CACHE_SIZE");
        assert_eq!(of(None, Some("3G")), pair("3G", variable));
        assert_eq!(of(None, None), pair("2G", Origin::File("/home/b".into())));
        assert_eq!(settings.text("state"), Some("/s"));
        assert_eq!(settings.text("host.fill-rate"), Some("5"));
        let none = Settings::default();
        let default = none.with_origin(size, None, None).unwrap();
        assert_eq!(default, pair("10G", Origin::Default));
        assert_eq!(none.with_origin(named("repository"), None, None), None);
        let picked = settings.pick(None, "cache-size", parse_bytes).unwrap();
        assert_eq!(picked, 2 << 30);
        let picked = settings.pick(Some(7), "cache-size", parse_bytes).unwrap();
        assert_eq!(picked, 7);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_key() {
        for (text, told) in [
            ("chache = \"/c\"", "`/f`: there is no setting `chache`"),
            (
                "[host]\nfil-rate = 1",
                "`/f`: there is no setting `host.fil-rate`",
            ),
            ("[guest]\nx = 1", "`/f`: there is no setting `guest.x`"),
            ("cache-size = \"much\"", "`/f`: cache-size: "),
            ("cache-size = -1", "`/f`: cache-size: "),
            ("cache = \"here\"", "`/f`: cache: "),
            ("cache = [1]", "`/f`: cache: "),
            ("mirrors = [1]", "`/f`: mirrors: "),
            ("mirrors = \"ftp://a\"", "`/f`: mirrors: "),
            (
                "[registry.\"https://a\"]\ntoken = \"t\"",
                "`/f`: there is no setting ",
            ),
            (
                "[registry.\"https://a\"]\ntoken-file = \"t\"",
                "`/f`: registry.https://a.token-file: ",
            ),
            (
                "[registry.\"ftp://a\"]\ntoken-file = \"/t\"",
                "`/f`: registry.ftp://a.token-file: ",
            ),
            ("fingerprint = \"md5:1\"", "`/f`: fingerprint: "),
            ("server.listen = \"somewhere\"", "`/f`: server.listen: "),
            (
                "server.tls-self-signed = \"yes\"",
                "`/f`: server.tls-self-signed: ",
            ),
            ("host.fill-rate = 0", "`/f`: host.fill-rate: "),
            ("host.metrics = 9000", "`/f`: host.metrics: "),
            ("host.log-format = \"xml\"", "`/f`: host.log-format: "),
            ("host.log-level = \"loud\"", "`/f`: host.log-level: "),
            ("cache = ", "`/f`: "),
        ] {
            let error = merge(&[("/f", text)]).unwrap_err().to_string();
            assert!(error.starts_with(told), "{text}: {error}");
        }
        // A default that is no value would be found out by whoever starts without a file.
        for setting in &SETTINGS {
            let checked = setting.default.map(setting.check);
            assert_eq!(checked.unwrap_or(Ok(())), Ok(()), "{}", setting.key);
        }
    }

    #[test]
    fn a_token_is_shown_to_the_repository_that_it_was_named_with() {
        let system = "repository = \"https://a\"\ntoken-file = \"/t\"\n";
        let mut settings = merge(&[("/f", system), ("/g", "cache-size = 9999999\n")]).unwrap();
        assert_eq!(settings.text("token-file"), Some("/t"));
        let other = merge(&[("/f", system), ("/g", "repository = \"https://b\"\n")]).unwrap();
        assert_eq!(other.text("token-file"), None);
        settings.without_credentials_unless_for("https://a");
        assert_eq!(settings.text("token-file"), Some("/t"));
        settings.without_credentials_unless_for("https://c");
        assert_eq!(settings.text("token-file"), None);
    }

    #[test]
    fn a_registry_has_a_section_by_its_url_and_mirrors_are_a_list() {
        let system = "repository = \"https://a\"\nmirrors = [\"https://m\", \"http://127.0.0.1:1/\"]\n\
                      [registry.\"https://m/\"]\ntoken-file = \"/t\"\n";
        let user = format!(
            "[registry.\"https://m\"]\nfingerprint = \"sha256:{}\"\n",
            "0".repeat(64)
        );
        let settings = merge(&[("/f", system), ("/g", &user)]).unwrap();
        let found = settings.credentials("https://m");
        assert_eq!(found.token_file, Some("/t".into()));
        assert!(found.fingerprint.is_some());
        assert!(settings.credentials("https://a").is_empty());
        let mirrors = parse_mirrors(settings.text("mirrors").unwrap()).unwrap();
        let mirrors: Vec<_> = mirrors.iter().map(Address::to_string).collect();
        assert_eq!(mirrors, ["https://m", "http://127.0.0.1:1"]);
        let shown: Vec<_> = settings.of_registries().collect();
        let file = |path: &str| Origin::File(path.into());
        assert_eq!(shown[0].0, "registry.\"https://m\".fingerprint");
        assert_eq!((&shown[0].2, &shown[1].2), (&file("/g"), &file("/f")));
        // They are for the repository that they were named with.
        let other = merge(&[("/f", system), ("/g", "repository = \"https://b\"\n")]).unwrap();
        assert_eq!(other.text("mirrors"), None);
        assert!(!other.credentials("https://m").is_empty());
    }
}
