//! `flotilla admin settings`.

use clap::{Args, Subcommand};
use meta::settings::{self, Settings};
use proto::meta as pb;
use serde_json::json;

use crate::exit::Failure;

/// Arguments of `flotilla admin settings`.
#[derive(Args)]
pub struct SettingsArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Print one
    Get { name: String },
    /// Change one
    Set { name: String, value: String },
    /// Bring one's default back
    Reset { name: String },
}

/// Shows all, or does what is asked.
pub async fn run(args: &SettingsArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let (name, value) = match &args.action {
        None => return list(host, as_json).await,
        Some(Action::Get { name }) => {
            let setting = settings::find(name).map_err(Failure::Usage)?;
            let value = current(host).await?.value(setting);
            return Ok(match as_json {
                true => super::pretty(&json!({ "name": name, "value": value })),
                false => format!("{value}\n"),
            });
        }
        Some(Action::Set { name, value }) if value.is_empty() => {
            return Err(Failure::Usage(format!(
                "a value is missing; `settings reset {name}` brings the default back"
            )));
        }
        Some(Action::Set { name, value }) => (name, value.clone()),
        Some(Action::Reset { name }) => (name, String::new()),
    };
    // What this version knows to be wrong is told without a cluster; the cluster has the last word.
    settings::check(name, &value).map_err(Failure::Usage)?;
    let mut admin = super::connect(host).await?;
    let request = pb::ChangeSettingsRequest { name: name.clone(), value };
    admin.change_settings(request).await.map_err(|status| super::describe(host, &status))?;
    match as_json {
        true => {
            let value = current(host).await?.value(settings::find(name).map_err(Failure::Usage)?);
            Ok(super::pretty(&json!({ "name": name, "value": value })))
        }
        false => Ok(String::new()),
    }
}

async fn current(host: &str) -> Result<Settings, Failure> {
    Ok(Settings::new(super::cluster(host).await?.settings.unwrap_or_default()))
}

async fn list(host: &str, as_json: bool) -> Result<String, Failure> {
    let current = current(host).await?;
    if as_json {
        let line = |s: &settings::Setting| json!({ "name": s.name, "value": current.value(s), "default": s.default, "description": s.description });
        return Ok(super::pretty(&settings::ALL.iter().map(line).collect()));
    }
    let mut table = super::table(&["NAME", "VALUE", "DEFAULT", "DESCRIPTION"]);
    for setting in settings::ALL {
        table.add_row([setting.name, &current.value(setting), setting.default, setting.description]);
    }
    Ok(super::rendered(table))
}
