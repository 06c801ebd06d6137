//! The extended protocol: Parse, Bind, Describe, Execute, Close.

use pgwire::messages::PgWireFrontendMessage as Message;
use pgwire::messages::extendedquery::{Bind, Execute, Parse};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, End};
use super::output::Format;
use crate::error::{Result, SqlError, SqlState};
use crate::session::{PortalRun, Response};
use crate::types::{Datum, Type, io};

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    /// Handles one message. The inner result is the statement's, the outer one the connection's.
    pub(super) async fn extended(&mut self, message: Message) -> Result<Result<()>, End> {
        match message {
            Message::Parse(parse) => Ok(self.parse(parse).await),
            Message::Bind(bind) => Ok(self.bind(bind)),
            Message::Describe(describe) => Ok(self.describe(describe.target_type, describe.name).await),
            Message::Execute(execute) => self.execute(execute).await,
            Message::Close(close) => Ok(self.close(close.target_type, close.name)),
            _ => Ok(Err(SqlError::new(SqlState::PROTOCOL_VIOLATION, "unexpected message"))),
        }
    }

    async fn parse(&mut self, parse: Parse) -> Result<()> {
        self.session.prepare(parse.name.unwrap_or_default(), &parse.query, &parse.type_oids).await?;
        self.output.parse_complete();
        Ok(())
    }

    fn bind(&mut self, bind: Bind) -> Result<()> {
        let statement = bind.statement_name.unwrap_or_default();
        let prepared = self.session.prepared(&statement)?;
        let types = prepared.params.clone();
        if bind.parameters.len() != types.len() {
            return Err(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                format!(
                    "bind message supplies {} parameters, but prepared statement \"{statement}\" requires {}",
                    bind.parameters.len(),
                    types.len()
                ),
            ));
        }
        let formats = Format::expand(&bind.parameter_format_codes, types.len(), "parameter")?;
        let zone = self.session.settings().time_zone().clone();
        let mut params = Vec::with_capacity(types.len());
        for (number, ((bytes, format), ty)) in bind.parameters.iter().zip(formats).zip(&types).enumerate() {
            let datum = match bytes {
                None => Datum::Null,
                Some(bytes) => parameter(bytes, format, *ty, &self.session.eval_context(&zone))
                    .map_err(|e| e.context(format!("unnamed portal parameter ${}", number + 1)))?,
            };
            params.push(datum);
        }
        let columns = prepared.columns.as_ref().map_or(0, Vec::len);
        let formats = Format::expand(&bind.result_column_format_codes, columns, "result")?;
        self.session.bind_portal(bind.portal_name.unwrap_or_default(), &statement, params, formats)?;
        self.output.bind_complete();
        Ok(())
    }

    async fn describe(&mut self, target: u8, name: Option<String>) -> Result<()> {
        let name = name.unwrap_or_default();
        match target {
            b'S' => {
                let prepared = self.session.prepared(&name)?;
                self.output.parameter_description(&prepared.params);
                match &prepared.columns {
                    Some(columns) => {
                        let formats = vec![Format::Text; columns.len()];
                        self.output.row_description(columns, &formats);
                    }
                    None => self.output.no_data(),
                }
            }
            b'P' => {
                let portal = self.session.portal(&name)?;
                match portal.columns() {
                    Some(columns) => self.output.row_description(columns, &portal.formats),
                    None => self.output.no_data(),
                }
            }
            _ => return Err(bad_target("DESCRIBE", target)),
        }
        Ok(())
    }

    async fn execute(&mut self, execute: Execute) -> Result<Result<()>, End> {
        let name = execute.name.unwrap_or_default();
        // Zero and below mean no limit.
        let rows_max = if execute.max_rows <= 0 { usize::MAX } else { execute.max_rows as usize };
        // A Sync that follows at once makes this a statement of its own, which can be run again by itself.
        let alone = self.reader.next_is(b'S');
        let run = match self.session.execute_portal(&name, alone).await {
            Ok(run) => run,
            Err(error) => return Ok(Err(error)),
        };
        let PortalRun { response, formats } = run;
        let Response::Rows(mut rows) = response else {
            return self.respond(response, false, Some(&formats)).await;
        };
        match self.send_rows(&mut rows, &formats, rows_max).await? {
            Ok(true) => match self.session.finish_portal(&name, rows).await {
                Ok(tag) => return Ok(self.complete(&tag, Vec::new()).await),
                Err(error) => return Ok(Err(error)),
            },
            Ok(false) => {
                self.session.suspend_portal(&name, rows);
                self.output.portal_suspended();
            }
            Err(error) => return Ok(Err(error)),
        }
        Ok(Ok(()))
    }

    fn close(&mut self, target: u8, name: Option<String>) -> Result<()> {
        let name = name.unwrap_or_default();
        match target {
            b'S' => self.session.close_statement(&name),
            b'P' => self.session.close_portal(&name),
            _ => return Err(bad_target("CLOSE", target)),
        }
        self.output.close_complete();
        Ok(())
    }
}

fn bad_target(message: &str, target: u8) -> SqlError {
    SqlError::new(SqlState::PROTOCOL_VIOLATION, format!("invalid {message} message subtype {target}"))
}

fn parameter(bytes: &[u8], format: Format, ty: Type, eval: &crate::function::EvalContext) -> Result<Datum> {
    match format {
        Format::Binary => io::from_binary(bytes, ty),
        Format::Text => {
            super::frame::check_utf8(bytes)?;
            let text = std::str::from_utf8(bytes).map_err(|_| SqlError::internal("text was checked"))?;
            if text.contains('\0') {
                return Err(SqlError::new(
                    SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                    "invalid byte sequence for encoding \"UTF8\": 0x00",
                ));
            }
            io::parse(text, ty.into(), eval)
        }
    }
}
