//! [`ModelCommand`]s as client events of a deployment's shape. Audio does not come this way: see
//! [`append_bytes_into`](crate::realtime::append_bytes_into) and its siblings.

use crate::call::ModelCommand;
use crate::realtime::{
    SessionSettings, Shape, WireFormat, cancel_response, create_function_output, create_response,
    create_system_text, create_user_text, delete_item, session_update, truncate_item,
};

/// What the commands of one deployment connection have in common.
#[derive(Clone, Copy, Debug)]
pub struct SessionContext<'a> {
    /// The agent's settings.
    pub settings: &'a SessionSettings,
    /// Format of the caller's audio towards the deployment.
    pub input: WireFormat,
    /// Format of the reply audio.
    pub output: WireFormat,
    /// The shape that the deployment speaks.
    pub shape: Shape,
}

/// A command as an event text. `event_id` comes back in the deployment's error, if there is one.
#[must_use]
pub fn encode(command: &ModelCommand, context: &SessionContext<'_>, event_id: &str) -> String {
    match command {
        ModelCommand::Configure => session_update(
            context.settings,
            context.input,
            context.output,
            context.shape,
            event_id,
        ),
        ModelCommand::CreateResponse { instructions } => {
            create_response(instructions.as_deref(), event_id)
        }
        ModelCommand::CancelResponse => cancel_response(None, event_id),
        ModelCommand::Truncate {
            item_id,
            content_index,
            audio_end_ms,
        } => truncate_item(item_id, *content_index, *audio_end_ms, event_id),
        ModelCommand::DeleteItem { item_id } => delete_item(item_id, event_id),
        ModelCommand::AddUserText { text } => create_user_text(text, event_id),
        ModelCommand::AddSystemText { text } => create_system_text(text, event_id),
        ModelCommand::AddFunctionOutput { call_id, output } => {
            create_function_output(call_id, output, event_id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::event_type;

    #[test]
    fn every_command_has_an_event() {
        let settings = SessionSettings::default();
        let context = |shape| SessionContext {
            settings: &settings,
            input: WireFormat::Ulaw,
            output: WireFormat::Pcm24k,
            shape,
        };
        let check = |command: ModelCommand, kind: &str| {
            for shape in [Shape::Preview, Shape::Ga] {
                let text = encode(&command, &context(shape), "cmd_1");
                assert_eq!(event_type(&text).as_deref(), Ok(kind));
                assert!(text.contains(r#""event_id":"cmd_1""#), "{text}");
            }
        };
        let text = || "x\"y".to_owned();
        check(ModelCommand::Configure, "session.update");
        check(
            ModelCommand::CreateResponse {
                instructions: Some(text()),
            },
            "response.create",
        );
        check(ModelCommand::CancelResponse, "response.cancel");
        check(
            ModelCommand::Truncate {
                item_id: text(),
                content_index: 0,
                audio_end_ms: 5,
            },
            "conversation.item.truncate",
        );
        check(
            ModelCommand::DeleteItem { item_id: text() },
            "conversation.item.delete",
        );
        check(
            ModelCommand::AddUserText { text: text() },
            "conversation.item.create",
        );
        check(
            ModelCommand::AddSystemText { text: text() },
            "conversation.item.create",
        );
        check(
            ModelCommand::AddFunctionOutput {
                call_id: text(),
                output: text(),
            },
            "conversation.item.create",
        );
    }
}
