//! [`ModelCommand`]s as client events of a deployment's shape. Audio does not come this way: see
//! [`append_bytes_into`](crate::realtime::append_bytes_into) and its siblings.

use crate::call::ModelCommand;
use crate::realtime::{
    SessionSettings, Shape, WireFormat, cancel_response, create_assistant_text,
    create_function_call, create_function_output, create_response, create_system_text,
    create_user_text, delete_item, session_update, truncate_item,
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
        ModelCommand::ContinueResponse { said } => {
            let instructions = continuation(context.settings.instructions.as_deref(), said);
            create_response(Some(&instructions), event_id)
        }
        ModelCommand::CancelResponse => cancel_response(None, event_id),
        ModelCommand::Truncate {
            item_id,
            content_index,
            audio_end_ms,
        } => truncate_item(item_id, *content_index, *audio_end_ms, event_id),
        ModelCommand::DeleteItem { item_id } => delete_item(item_id, event_id),
        ModelCommand::AddUserText { text } => create_user_text(text, event_id),
        ModelCommand::AddAssistantText { item_id, text } => {
            create_assistant_text(item_id, text, context.shape, event_id)
        }
        ModelCommand::AddFunctionCall {
            call_id,
            name,
            arguments,
        } => create_function_call(call_id, name, arguments, event_id),
        ModelCommand::AddSystemText { text } => create_system_text(text, event_id),
        ModelCommand::AddFunctionOutput { call_id, output } => {
            create_function_output(call_id, output, event_id)
        }
    }
}

/// What makes a model go on in mid-sentence. Instructions of a response stand in place of the session's
/// (protocol reference 2.1), so that these are said again.
fn continuation(session: Option<&str>, said: &str) -> String {
    let mut text = String::new();
    if let Some(session) = session {
        text.push_str(session);
        text.push_str("\n\n");
    }
    text.push_str("Your answer was cut off while you were speaking; the caller did not notice. ");
    if !said.is_empty() {
        text.push_str("The last words that the caller heard of it are: \"");
        text.push_str(said);
        text.push_str("\" ");
    }
    text.push_str(
        "Say the rest of that answer now, going on right after those words. Do not repeat them, do not \
         start over, do not greet, and do not mention the interruption.",
    );
    text
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
            ModelCommand::ContinueResponse { said: text() },
            "response.create",
        );
        check(
            ModelCommand::AddAssistantText {
                item_id: "item_1".to_owned(),
                text: text(),
            },
            "conversation.item.create",
        );
        check(
            ModelCommand::AddFunctionCall {
                call_id: text(),
                name: text(),
                arguments: "{}".to_owned(),
            },
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

    #[test]
    fn each_message_has_its_speaker() {
        let settings = SessionSettings::default();
        let context = SessionContext {
            settings: &settings,
            input: WireFormat::Ulaw,
            output: WireFormat::Pcm24k,
            shape: Shape::Ga,
        };
        let text = || "x".to_owned();
        for (command, expected) in [
            (
                ModelCommand::AddUserText { text: text() },
                r#""role":"user","content":[{"type":"input_text","text":"x"}]"#,
            ),
            (
                ModelCommand::AddSystemText { text: text() },
                r#""role":"system","content":[{"type":"input_text","text":"x"}]"#,
            ),
            (
                ModelCommand::AddAssistantText {
                    item_id: "i".to_owned(),
                    text: text(),
                },
                r#""role":"assistant","content":[{"type":"output_text","text":"x"}],"id":"i""#,
            ),
        ] {
            let event = encode(&command, &context, "e");
            assert!(event.contains(expected), "{event}");
        }
    }

    #[test]
    fn an_answer_goes_on_under_the_sessions_instructions() {
        let text = continuation(Some("You are a clerk."), "until five");
        assert!(text.starts_with("You are a clerk.\n\nYour answer was cut off"));
        assert!(text.contains("are: \"until five\" Say the rest"), "{text}");
        let text = continuation(None, "");
        assert!(
            text.starts_with("Your answer") && !text.contains("last words"),
            "{text}"
        );
    }
}
