//! Run-time parameters of a session: `SET`, `SHOW`, `RESET`, and what a client is told of them.
//!
//! A transaction that is rolled back takes back what it SET: [`Settings`] is cloned when a transaction block begins.

use std::borrow::Cow;
use std::time::Duration;

use crate::error::{Result, SqlError, SqlState};
use crate::types::TimeZone;

/// A parameter: its name as it is shown, its default, and what it accepts.
struct Parameter {
    name: &'static str,
    default: &'static str,
    kind: Kind,
    /// Told to the client at startup and at each change (ParameterStatus).
    reported: bool,
    description: &'static str,
}

/// What a parameter accepts.
enum Kind {
    /// Any string.
    Text,
    /// on/off.
    Bool,
    /// An integer within a range.
    Int(i64, i64),
    /// A duration; a bare number is milliseconds.
    Millis,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A time zone.
    Zone,
    /// Can't be changed.
    ReadOnly,
}

const ISOLATION: &[&str] = &["serializable", "repeatable read", "read committed", "read uncommitted"];

const fn p(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    reported: bool,
    description: &'static str,
) -> Parameter {
    Parameter { name, default, kind, reported, description }
}

/// In the order of names, which is SHOW ALL's.
const PARAMETERS: &[Parameter] = &[
    p(
        "application_name",
        "",
        Kind::Text,
        true,
        "Sets the application name to be reported in statistics and logs.",
    ),
    p("bytea_output", "hex", Kind::OneOf(&["hex"]), false, "Sets the output format for bytea."),
    p("check_function_bodies", "on", Kind::Bool, false, "Check routine bodies during creation."),
    p(
        "client_encoding",
        "UTF8",
        Kind::OneOf(&["UTF8", "utf-8", "unicode"]),
        true,
        "Sets the client's character set encoding.",
    ),
    p(
        "client_min_messages",
        "notice",
        Kind::OneOf(&["debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error"]),
        false,
        "Sets the message levels that are sent to the client.",
    ),
    p(
        "DateStyle",
        "ISO, MDY",
        Kind::OneOf(&["ISO, MDY", "ISO", "iso,mdy"]),
        true,
        "Sets the display format for date and time values.",
    ),
    p(
        "deadlock_timeout",
        "300",
        Kind::Millis,
        false,
        "Sets the time to wait on a lock before checking for deadlock.",
    ),
    p(
        "default_transaction_deferrable",
        "off",
        Kind::Bool,
        false,
        "Sets the default deferrable status of new transactions.",
    ),
    p(
        "default_transaction_isolation",
        "serializable",
        Kind::OneOf(ISOLATION),
        false,
        "Sets the transaction isolation level of each new transaction.",
    ),
    p(
        "default_transaction_read_only",
        "off",
        Kind::Bool,
        true,
        "Sets the default read-only status of new transactions.",
    ),
    p(
        "extra_float_digits",
        "1",
        Kind::Int(-15, 3),
        false,
        "Sets the number of digits displayed for floating-point values.",
    ),
    p(
        "idle_in_transaction_session_timeout",
        "0",
        Kind::Millis,
        false,
        "Sets the maximum allowed idle time between queries, when in a transaction.",
    ),
    p(
        "idle_session_timeout",
        "0",
        Kind::Millis,
        false,
        "Sets the maximum allowed idle time between queries, when not in a transaction.",
    ),
    p("in_hot_standby", "off", Kind::ReadOnly, true, "Shows whether hot standby is currently active."),
    p("integer_datetimes", "on", Kind::ReadOnly, true, "Shows whether datetimes are integer based."),
    p(
        "IntervalStyle",
        "postgres",
        Kind::OneOf(&["postgres"]),
        true,
        "Sets the display format for interval values.",
    ),
    p("is_superuser", "on", Kind::ReadOnly, true, "Shows whether the current user is a superuser."),
    p("lock_timeout", "0", Kind::Millis, false, "Sets the maximum allowed duration of any wait for a lock."),
    p("max_identifier_length", "63", Kind::ReadOnly, false, "Shows the maximum identifier length."),
    p("row_security", "on", Kind::Bool, false, "Enable row security."),
    p(
        "search_path",
        "\"$user\", public",
        Kind::Text,
        false,
        "Sets the schema search order for names that are not schema-qualified.",
    ),
    p("server_encoding", "UTF8", Kind::ReadOnly, true, "Shows the server (database) character set encoding."),
    p("server_version", crate::PG_VERSION, Kind::ReadOnly, true, "Shows the server version."),
    p(
        "server_version_num",
        crate::PG_VERSION_NUM,
        Kind::ReadOnly,
        false,
        "Shows the server version as an integer.",
    ),
    p("session_authorization", "", Kind::ReadOnly, true, "Shows the session user name."),
    p(
        "standard_conforming_strings",
        "on",
        Kind::OneOf(&["on"]),
        true,
        "Causes '...' strings to treat backslashes literally.",
    ),
    p("statement_timeout", "0", Kind::Millis, false, "Sets the maximum allowed duration of any statement."),
    p(
        "synchronous_commit",
        "on",
        Kind::OneOf(&["on"]),
        false,
        "Every commit is on the disks of a majority before it is acknowledged.",
    ),
    p("TimeZone", "UTC", Kind::Zone, true, "Sets the time zone for displaying and interpreting time stamps."),
    p("transaction_deferrable", "off", Kind::Bool, false, "Shows whether the current transaction waits."),
    p(
        "transaction_isolation",
        "serializable",
        Kind::OneOf(ISOLATION),
        false,
        "Shows the current transaction's isolation level.",
    ),
    p("transaction_read_only", "off", Kind::Bool, false, "Shows the current transaction's read-only status."),
    p(
        "transaction_timeout",
        "0",
        Kind::Millis,
        false,
        "Sets the maximum allowed duration of any transaction within a session.",
    ),
];

fn index_of(name: &str) -> Option<usize> {
    let name = match name.to_ascii_lowercase().as_str() {
        "time zone" | "timezone" => "timezone".to_owned(),
        "names" => "client_encoding".to_owned(),
        other => other.to_owned(),
    };
    PARAMETERS.iter().position(|p| p.name.eq_ignore_ascii_case(&name))
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}

/// The values of one session.
#[derive(Clone, Debug)]
pub struct Settings {
    values: Vec<Cow<'static, str>>,
    /// What RESET goes back to: the defaults as changed by the startup packet.
    initial: Vec<Cow<'static, str>>,
    /// Parameters with a dot in their name are the client's own.
    custom: std::collections::BTreeMap<String, String>,
    time_zone: TimeZone,
}

impl Settings {
    /// The defaults, for a session of `user`.
    pub fn new(user: &str) -> Self {
        let values: Vec<Cow<'static, str>> = PARAMETERS
            .iter()
            .map(
                |p| if p.name == "session_authorization" { user.to_owned().into() } else { p.default.into() },
            )
            .collect();
        Self { initial: values.clone(), values, custom: Default::default(), time_zone: TimeZone::default() }
    }

    /// Makes the present values the ones that RESET goes back to.
    pub fn seal(&mut self) {
        self.initial = self.values.clone();
    }

    /// Sets a parameter; returns its name and value where the client is to be told.
    pub fn set(&mut self, name: &str, value: &str) -> Result<Option<(&'static str, String)>> {
        let Some(index) = index_of(name) else {
            if name.contains('.') {
                self.custom.insert(name.to_ascii_lowercase(), value.to_owned());
                return Ok(None);
            }
            return Err(unknown(name));
        };
        let parameter = &PARAMETERS[index];
        let value = normalise(parameter, value)?;
        if matches!(parameter.kind, Kind::Zone) {
            self.time_zone = zone(&value).ok_or_else(|| invalid(parameter, &value))?;
        }
        if parameter.name == "extra_float_digits" && !matches!(&value[..], "1" | "2" | "3") {
            return Err(SqlError::unsupported("extra_float_digits below 1"));
        }
        self.values[index] = value.clone().into();
        Ok(parameter.reported.then_some((parameter.name, value)))
    }

    /// Sets a parameter back to its initial value.
    pub fn reset(&mut self, name: &str) -> Result<Option<(&'static str, String)>> {
        let Some(index) = index_of(name) else {
            // Once known, they stay.
            if let Some(value) = self.custom.get_mut(&name.to_ascii_lowercase()) {
                value.clear();
            }
            return if name.contains('.') { Ok(None) } else { Err(unknown(name)) };
        };
        let value = self.initial[index].clone().into_owned();
        if matches!(PARAMETERS[index].kind, Kind::ReadOnly) {
            return Err(cannot_change(&PARAMETERS[index]));
        }
        self.set(name, &value)
    }

    /// RESET ALL.
    pub fn reset_all(&mut self) -> Vec<(&'static str, String)> {
        self.values = self.initial.clone();
        self.custom.clear();
        let zone = self.text("timezone");
        self.time_zone = self::zone(zone).unwrap_or_default();
        self.reported().collect()
    }

    /// SHOW.
    pub fn show(&self, name: &str) -> Result<(String, String)> {
        match index_of(name) {
            Some(index) => {
                Ok((PARAMETERS[index].name.to_owned(), shown(&PARAMETERS[index], &self.values[index])))
            }
            None => match self.custom.get(&name.to_ascii_lowercase()) {
                Some(value) => Ok((name.to_ascii_lowercase(), value.clone())),
                None => Err(unknown(name)),
            },
        }
    }

    /// SHOW ALL: name, value, description.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, String, &'static str)> {
        PARAMETERS.iter().zip(&self.values).map(|(p, v)| (p.name, shown(p, v), p.description))
    }

    /// What a client is told at startup.
    pub fn reported(&self) -> impl Iterator<Item = (&'static str, String)> {
        PARAMETERS
            .iter()
            .zip(&self.values)
            .filter(|(p, _)| p.reported)
            .map(|(p, v)| (p.name, v.clone().into_owned()))
    }

    fn text(&self, name: &str) -> &str {
        index_of(name).map_or("", |index| &self.values[index])
    }

    /// A boolean parameter.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "on"
    }

    /// A duration parameter; `None` for 0, which means no limit.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        let millis = self.text(name).parse::<u64>().unwrap_or(0);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// A parameter's text.
    pub fn get(&self, name: &str) -> &str {
        self.text(name)
    }

    /// A parameter's text, or that of one of the client's own.
    pub fn get_any(&self, name: &str) -> Option<String> {
        match index_of(name) {
            Some(index) => Some(self.values[index].clone().into_owned()),
            None => self.custom.get(&name.to_ascii_lowercase()).cloned(),
        }
    }

    /// The session's time zone.
    pub fn time_zone(&self) -> &TimeZone {
        &self.time_zone
    }

    /// The schemas of the search path, with `$user` left out (there are no schemas named after users unless made).
    pub fn search_path(&self) -> Vec<String> {
        self.text("search_path")
            .split(',')
            .map(|s| {
                let s = s.trim();
                s.strip_prefix('"')
                    .and_then(|s| s.strip_suffix('"'))
                    .map_or_else(|| s.to_lowercase(), str::to_owned)
            })
            .filter(|s| !s.is_empty() && s != "$user")
            .collect()
    }
}

fn invalid(parameter: &Parameter, value: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("invalid value for parameter \"{}\": \"{value}\"", parameter.name),
    )
}

fn cannot_change(parameter: &Parameter) -> SqlError {
    SqlError::new(
        SqlState::CANT_CHANGE_RUNTIME_PARAM,
        format!("parameter \"{}\" cannot be changed", parameter.name),
    )
}

/// A number is hours east of UTC; in a name like `UTC+3` they count west.
fn zone(text: &str) -> Option<TimeZone> {
    match text.trim().parse::<f64>() {
        Ok(hours) => TimeZone::from_hours(hours),
        Err(_) => TimeZone::by_name(text),
    }
}

fn normalise(parameter: &Parameter, value: &str) -> Result<String> {
    let value = value.trim();
    match &parameter.kind {
        Kind::Text => Ok(value.to_owned()),
        Kind::Zone => Ok(value.to_owned()),
        Kind::ReadOnly => Err(cannot_change(parameter)),
        Kind::Bool => match value.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" | "t" | "y" => Ok("on".into()),
            "off" | "false" | "no" | "0" | "f" | "n" => Ok("off".into()),
            _ => Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("parameter \"{}\" requires a Boolean value", parameter.name),
            )),
        },
        Kind::Int(low, high) => match value.parse::<i64>() {
            Ok(number) if (*low..=*high).contains(&number) => Ok(number.to_string()),
            Ok(number) => Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!(
                    "{number} is outside the valid range for parameter \"{}\" ({low} .. {high})",
                    parameter.name
                ),
            )),
            Err(_) => Err(invalid(parameter, value)),
        },
        Kind::Millis => millis(value).map(|ms| ms.to_string()).ok_or_else(|| {
            let error = invalid(parameter, value);
            match value.starts_with(|c: char| c.is_ascii_digit()) {
                true => error.hint(
                    "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".",
                ),
                false => error,
            }
        }),
        Kind::OneOf(values) => {
            let plain = |s: &str| s.to_ascii_lowercase().replace([' ', '\''], "");
            match values.iter().find(|v| plain(v) == plain(value)) {
                // Spellings of one value are kept as the first of them, except for the enumerations proper.
                Some(_) if matches!(parameter.name, "client_encoding" | "DateStyle") => {
                    Ok(values[0].to_owned())
                }
                Some(found) => Ok((*found).to_owned()),
                None => {
                    Err(invalid(parameter, value).hint(format!("Available values: {}.", values.join(", "))))
                }
            }
        }
    }
}

/// Milliseconds of a duration as PostgreSQL writes it: `1500`, `1500ms`, `10s`, `2min`.
fn millis(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "" | "ms" => Some(number),
        "us" => Some(number.div_ceil(1000)),
        "s" => number.checked_mul(1_000),
        "min" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    }
}

/// A value as SHOW writes it: durations in the largest unit that gives a whole number.
fn shown(parameter: &Parameter, value: &str) -> String {
    let (Kind::Millis, Ok(millis @ 1..)) = (&parameter.kind, value.parse::<u64>()) else {
        return value.to_owned();
    };
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let unit = units.into_iter().find(|(size, _)| millis % size == 0);
    unit.map_or_else(|| value.to_owned(), |(size, unit)| format!("{}{unit}", millis / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_with_units_are_milliseconds() {
        assert_eq!(millis("1500"), Some(1500));
        assert_eq!(millis("2min"), Some(120_000));
        assert_eq!(millis("2 parsecs"), None);
    }

    #[test]
    fn unknown_parameters_are_refused_and_custom_ones_kept() {
        let mut settings = Settings::new("me");
        assert_eq!(settings.set("nonsense", "1").expect_err("unknown").state, SqlState::UNDEFINED_OBJECT);
        settings.set("my.own", "1").expect("custom");
        assert_eq!(settings.show("my.own").expect("custom").1, "1");
        assert_eq!(
            settings.set("server_version", "1").expect_err("read-only").state,
            SqlState::CANT_CHANGE_RUNTIME_PARAM
        );
    }
}
