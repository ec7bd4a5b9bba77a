//! One example of every event, in both shapes, for the tests of this folder and of `upstream`.
//!
//! Made after the examples of the reference (protocol, appendix A); ids and values are invented.

/// Events that say the same thing in the two shapes. Translating one list gives the other, in both directions.
pub(crate) struct Pair {
    pub(crate) preview: &'static [&'static str],
    pub(crate) ga: &'static [&'static str],
}

const fn pair(preview: &'static [&'static str], ga: &'static [&'static str]) -> Pair {
    Pair { preview, ga }
}

/// An event that is the same in both shapes.
const fn same(event: &'static [&'static str]) -> Pair {
    Pair {
        preview: event,
        ga: event,
    }
}

pub(crate) const CLIENT_PAIRS: &[Pair] = &[
    pair(
        &[
            r#"{"type":"session.update","event_id":"c1","session":{"instructions":"Be brief.","modalities":["text","audio"],"voice":"marin","speed":1.1,"input_audio_format":"g711_ulaw","output_audio_format":"g711_alaw","input_audio_transcription":{"model":"whisper-1"},"input_audio_noise_reduction":null,"turn_detection":{"type":"server_vad","threshold":0.6,"silence_duration_ms":400},"tools":[{"type":"function","name":"f","description":"d","parameters":{"type":"object","properties":{"z":{},"a":{}}}}],"tool_choice":"auto","max_response_output_tokens":"inf","tracing":null,"prompt":null,"include":null}}"#,
        ],
        &[
            r#"{"type":"session.update","event_id":"c1","session":{"type":"realtime","instructions":"Be brief.","output_modalities":["audio"],"audio":{"input":{"format":{"type":"audio/pcmu"},"transcription":{"model":"whisper-1"},"noise_reduction":null,"turn_detection":{"type":"server_vad","threshold":0.6,"silence_duration_ms":400}},"output":{"format":{"type":"audio/pcma"},"voice":"marin","speed":1.1}},"tools":[{"type":"function","name":"f","description":"d","parameters":{"type":"object","properties":{"z":{},"a":{}}}}],"tool_choice":"auto","max_output_tokens":"inf","tracing":null,"prompt":null,"include":null}}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"session.update","session":{"modalities":["text"],"turn_detection":null,"instructions":""}}"#,
        ],
        &[
            r#"{"type":"session.update","session":{"type":"realtime","output_modalities":["text"],"audio":{"input":{"turn_detection":null}},"instructions":""}}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"transcription_session.update","session":{"input_audio_format":"pcm16","input_audio_transcription":{"model":"gpt-4o-transcribe","language":"en"},"turn_detection":{"type":"server_vad"}}}"#,
        ],
        &[
            r#"{"type":"session.update","session":{"type":"transcription","audio":{"input":{"format":{"type":"audio/pcm","rate":24000},"transcription":{"model":"gpt-4o-transcribe","language":"en"},"turn_detection":{"type":"server_vad"}}}}}"#,
        ],
    ),
    same(&[r#"{"type":"input_audio_buffer.append","audio":"//8AAP//AAA="}"#]),
    same(&[r#"{"type":"input_audio_buffer.commit"}"#]),
    same(&[r#"{"type":"input_audio_buffer.clear","event_id":"c2"}"#]),
    same(&[r#"{"type":"output_audio_buffer.clear"}"#]),
    same(&[
        r#"{"type":"conversation.item.create","previous_item_id":null,"item":{"type":"message","role":"user","content":[{"type":"input_text","text":"Hello"}]}}"#,
    ]),
    pair(
        &[
            r#"{"type":"conversation.item.create","previous_item_id":"root","item":{"type":"message","role":"assistant","content":[{"type":"text","text":"Hello"}]}}"#,
        ],
        &[
            r#"{"type":"conversation.item.create","previous_item_id":"root","item":{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Hello"}]}}"#,
        ],
    ),
    same(&[
        r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"call_a","output":"{\"ok\":true}"}}"#,
    ]),
    same(&[r#"{"type":"conversation.item.retrieve","item_id":"item_a"}"#]),
    same(&[
        r#"{"type":"conversation.item.truncate","item_id":"item_b","content_index":0,"audio_end_ms":1500}"#,
    ]),
    same(&[r#"{"type":"conversation.item.delete","item_id":"item_a"}"#]),
    same(&[r#"{"type":"response.create"}"#]),
    pair(
        &[
            r#"{"type":"response.create","response":{"conversation":"none","modalities":["text"],"metadata":{"job":"summary"},"input":[{"type":"item_reference","id":"item_a"},{"type":"message","role":"assistant","content":[{"type":"text","text":"x"}]}]}}"#,
        ],
        &[
            r#"{"type":"response.create","response":{"conversation":"none","output_modalities":["text"],"metadata":{"job":"summary"},"input":[{"type":"item_reference","id":"item_a"},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"x"}]}]}}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"response.create","event_id":"c3","response":{"modalities":["text","audio"],"instructions":"Hi.","voice":"alloy","output_audio_format":"pcm16","tools":[],"tool_choice":{"type":"function","name":"f"},"max_output_tokens":100}}"#,
        ],
        &[
            r#"{"type":"response.create","event_id":"c3","response":{"output_modalities":["audio"],"instructions":"Hi.","audio":{"output":{"voice":"alloy","format":{"type":"audio/pcm","rate":24000}}},"tools":[],"tool_choice":{"type":"function","name":"f"},"max_output_tokens":100}}"#,
        ],
    ),
    same(&[r#"{"type":"response.cancel","response_id":"resp_a"}"#]),
];

pub(crate) const SERVER_PAIRS: &[Pair] = &[
    pair(
        &[
            r#"{"type":"error","event_id":"e","error":{"type":"invalid_request_error","code":"invalid_value","message":"Invalid 'session.turn_detection.threshold'.","param":"session.turn_detection.threshold","event_id":"cli_42"}}"#,
        ],
        &[
            r#"{"type":"error","event_id":"e","error":{"type":"invalid_request_error","code":"invalid_value","message":"Invalid 'session.audio.input.turn_detection.threshold'.","param":"session.audio.input.turn_detection.threshold","event_id":"cli_42"}}"#,
        ],
    ),
    same(&[
        r#"{"type":"error","event_id":"e","error":{"type":"server_error","code":null,"message":"Oops","param":null,"event_id":null}}"#,
    ]),
    pair(&[PREVIEW_SESSION_CREATED], &[GA_SESSION_CREATED]),
    pair(
        &[
            r#"{"type":"transcription_session.updated","event_id":"e","session":{"id":"sess_t","object":"realtime.transcription_session","expires_at":1760003600,"input_audio_format":"pcm16","input_audio_transcription":{"model":"gpt-4o-transcribe"},"input_audio_noise_reduction":null,"turn_detection":null,"include":null,"client_secret":null}}"#,
        ],
        &[
            r#"{"type":"session.updated","event_id":"e","session":{"type":"transcription","id":"sess_t","object":"realtime.transcription_session","expires_at":1760003600,"audio":{"input":{"format":{"type":"audio/pcm","rate":24000},"transcription":{"model":"gpt-4o-transcribe"},"noise_reduction":null,"turn_detection":null}},"include":null}}"#,
        ],
    ),
    same(&[
        r#"{"type":"conversation.created","event_id":"e","conversation":{"id":"conv_a","object":"realtime.conversation"}}"#,
    ]),
    same(&[
        r#"{"type":"input_audio_buffer.speech_started","event_id":"e","audio_start_ms":1012,"item_id":"item_a"}"#,
    ]),
    same(&[
        r#"{"type":"input_audio_buffer.speech_stopped","event_id":"e","audio_end_ms":3104,"item_id":"item_a"}"#,
    ]),
    same(&[
        r#"{"type":"input_audio_buffer.committed","event_id":"e","previous_item_id":null,"item_id":"item_a"}"#,
    ]),
    same(&[r#"{"type":"input_audio_buffer.cleared","event_id":"e"}"#]),
    pair(
        &[
            r#"{"type":"conversation.item.created","event_id":"e","previous_item_id":null,"item":{"id":"item_a","object":"realtime.item","type":"message","status":"completed","role":"user","content":[{"type":"input_audio","transcript":null}]}}"#,
        ],
        &[
            r#"{"type":"conversation.item.added","event_id":"e","previous_item_id":null,"item":{"id":"item_a","object":"realtime.item","type":"message","status":"completed","role":"user","content":[{"type":"input_audio","transcript":null}]}}"#,
            r#"{"type":"conversation.item.done","event_id":"event_000000000000000000001","previous_item_id":null,"item":{"id":"item_a","object":"realtime.item","type":"message","status":"completed","role":"user","content":[{"type":"input_audio","transcript":null}]}}"#,
        ],
    ),
    same(&[
        r#"{"type":"conversation.item.input_audio_transcription.delta","event_id":"e","item_id":"item_a","content_index":0,"delta":"Hi"}"#,
    ]),
    same(&[
        r#"{"type":"conversation.item.input_audio_transcription.completed","event_id":"e","item_id":"item_a","content_index":0,"transcript":"Hi there","usage":{"type":"tokens","total_tokens":25,"input_tokens":21,"input_token_details":{"text_tokens":0,"audio_tokens":21},"output_tokens":4}}"#,
    ]),
    same(&[
        r#"{"type":"conversation.item.input_audio_transcription.segment","event_id":"e","item_id":"item_a","content_index":0,"text":"Hi","id":"s","speaker":"A","start":0.0,"end":0.5}"#,
    ]),
    same(&[
        r#"{"type":"conversation.item.input_audio_transcription.failed","event_id":"e","item_id":"item_a","content_index":0,"error":{"type":"server_error","code":null,"message":"...","param":null}}"#,
    ]),
    pair(
        &[
            r#"{"type":"response.created","event_id":"e","response":{"object":"realtime.response","id":"resp_a","status":"in_progress","status_details":null,"output":[],"conversation_id":"conv_a","modalities":["text","audio"],"max_output_tokens":"inf","voice":"alloy","output_audio_format":"pcm16","temperature":0.8,"usage":null,"metadata":null}}"#,
        ],
        &[
            r#"{"type":"response.created","event_id":"e","response":{"object":"realtime.response","id":"resp_a","status":"in_progress","status_details":null,"output":[],"conversation_id":"conv_a","output_modalities":["audio"],"max_output_tokens":"inf","audio":{"output":{"format":{"type":"audio/pcm","rate":24000},"voice":"alloy"}},"usage":null,"metadata":null}}"#,
        ],
    ),
    same(&[
        r#"{"type":"response.output_item.added","event_id":"e","response_id":"resp_a","output_index":0,"item":{"id":"item_b","object":"realtime.item","type":"message","status":"in_progress","role":"assistant","content":[]}}"#,
    ]),
    same(&[
        r#"{"type":"response.content_part.added","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"part":{"type":"audio","transcript":""}}"#,
    ]),
    pair(
        &[
            r#"{"type":"response.audio_transcript.delta","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"delta":"Sure"}"#,
        ],
        &[
            r#"{"type":"response.output_audio_transcript.delta","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"delta":"Sure"}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"response.audio.delta","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"delta":"AAAA"}"#,
        ],
        &[
            r#"{"type":"response.output_audio.delta","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"delta":"AAAA"}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"response.audio.done","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0}"#,
        ],
        &[
            r#"{"type":"response.output_audio.done","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"response.audio_transcript.done","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"transcript":"Sure."}"#,
        ],
        &[
            r#"{"type":"response.output_audio_transcript.done","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"transcript":"Sure."}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"response.text.delta","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"delta":"Sure"}"#,
        ],
        &[
            r#"{"type":"response.output_text.delta","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"delta":"Sure"}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"response.text.done","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"text":"Sure."}"#,
        ],
        &[
            r#"{"type":"response.output_text.done","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"text":"Sure."}"#,
        ],
    ),
    same(&[
        r#"{"type":"response.content_part.done","event_id":"e","response_id":"resp_a","item_id":"item_b","output_index":0,"content_index":0,"part":{"type":"audio","transcript":"Sure."}}"#,
    ]),
    pair(
        &[
            r#"{"type":"response.output_item.done","event_id":"e","response_id":"resp_a","output_index":0,"item":{"id":"item_b","object":"realtime.item","type":"message","status":"completed","role":"assistant","content":[{"type":"audio","transcript":"Sure."}]}}"#,
        ],
        &[
            r#"{"type":"response.output_item.done","event_id":"e","response_id":"resp_a","output_index":0,"item":{"id":"item_b","object":"realtime.item","type":"message","status":"completed","role":"assistant","content":[{"type":"output_audio","transcript":"Sure."}]}}"#,
        ],
    ),
    same(&[
        r#"{"type":"response.function_call_arguments.delta","event_id":"e","response_id":"resp_a","item_id":"item_d","output_index":1,"call_id":"call_a","delta":"{\"city\":"}"#,
    ]),
    same(&[
        r#"{"type":"response.function_call_arguments.done","event_id":"e","response_id":"resp_a","item_id":"item_d","output_index":1,"call_id":"call_a","name":"weather","arguments":"{\"city\":\"Oslo\"}"}"#,
    ]),
    pair(
        &[
            r#"{"type":"response.done","event_id":"e","response":{"object":"realtime.response","id":"resp_a","status":"cancelled","status_details":{"type":"cancelled","reason":"turn_detected"},"output":[{"id":"item_b","object":"realtime.item","type":"message","status":"incomplete","role":"assistant","content":[{"type":"audio","transcript":"Sure."}]}],"conversation_id":"conv_a","modalities":["text","audio"],"max_output_tokens":"inf","voice":"marin","output_audio_format":"pcm16","temperature":0.8,"usage":{"total_tokens":180,"input_tokens":132,"output_tokens":48,"input_token_details":{"text_tokens":119,"audio_tokens":13,"image_tokens":0,"cached_tokens":64,"cached_tokens_details":{"text_tokens":64,"audio_tokens":0,"image_tokens":0}},"output_token_details":{"text_tokens":12,"audio_tokens":36}},"metadata":null}}"#,
        ],
        &[
            r#"{"type":"response.done","event_id":"e","response":{"object":"realtime.response","id":"resp_a","status":"cancelled","status_details":{"type":"cancelled","reason":"turn_detected"},"output":[{"id":"item_b","object":"realtime.item","type":"message","status":"incomplete","role":"assistant","content":[{"type":"output_audio","transcript":"Sure."}]}],"conversation_id":"conv_a","output_modalities":["audio"],"max_output_tokens":"inf","audio":{"output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin"}},"usage":{"total_tokens":180,"input_tokens":132,"output_tokens":48,"input_token_details":{"text_tokens":119,"audio_tokens":13,"image_tokens":0,"cached_tokens":64,"cached_tokens_details":{"text_tokens":64,"audio_tokens":0,"image_tokens":0}},"output_token_details":{"text_tokens":12,"audio_tokens":36}},"metadata":null}}"#,
        ],
    ),
    pair(
        &[
            r#"{"type":"response.done","event_id":"e","response":{"object":"realtime.response","id":"resp_b","status":"failed","status_details":{"type":"failed","error":{"type":"invalid_request_error","code":"rate_limit_exceeded","message":"..."}},"output":[],"conversation_id":"conv_a","temperature":0.8,"usage":{"total_tokens":0,"input_tokens":0,"output_tokens":0,"input_token_details":{"text_tokens":0,"audio_tokens":0,"image_tokens":0,"cached_tokens":0},"output_token_details":{"text_tokens":0,"audio_tokens":0}},"metadata":null}}"#,
        ],
        &[
            r#"{"type":"response.done","event_id":"e","response":{"object":"realtime.response","id":"resp_b","status":"failed","status_details":{"type":"failed","error":{"type":"invalid_request_error","code":"rate_limit_exceeded","message":"..."}},"output":[],"conversation_id":"conv_a","usage":{"total_tokens":0,"input_tokens":0,"output_tokens":0,"input_token_details":{"text_tokens":0,"audio_tokens":0,"image_tokens":0,"cached_tokens":0},"output_token_details":{"text_tokens":0,"audio_tokens":0}},"metadata":null}}"#,
        ],
    ),
    same(&[
        r#"{"type":"conversation.item.truncated","event_id":"e","item_id":"item_b","content_index":0,"audio_end_ms":1500}"#,
    ]),
    same(&[r#"{"type":"conversation.item.deleted","event_id":"e","item_id":"item_a"}"#]),
    pair(
        &[
            r#"{"type":"conversation.item.retrieved","event_id":"e","item":{"id":"item_b","object":"realtime.item","type":"message","status":"completed","role":"assistant","content":[{"type":"audio","transcript":"Sure.","audio":"AAAA","format":"pcm16"}]}}"#,
        ],
        &[
            r#"{"type":"conversation.item.retrieved","event_id":"e","item":{"id":"item_b","object":"realtime.item","type":"message","status":"completed","role":"assistant","content":[{"type":"output_audio","transcript":"Sure.","audio":"AAAA","format":"pcm16"}]}}"#,
        ],
    ),
    same(&[r#"{"type":"output_audio_buffer.started","event_id":"e","response_id":"resp_a"}"#]),
    same(&[
        r#"{"type":"rate_limits.updated","event_id":"e","rate_limits":[{"name":"requests","limit":5000,"remaining":4999,"reset_seconds":0.012},{"name":"tokens","limit":20000,"remaining":15482,"reset_seconds":13.554}]}"#,
    ]),
];

/// Events that only GA deployments send.
pub(crate) const GA_ONLY: &[&str] = &[
    r#"{"type":"input_audio_buffer.timeout_triggered","event_id":"e","audio_start_ms":13216,"audio_end_ms":19232,"item_id":"item_c"}"#,
    r#"{"type":"input_audio_buffer.dtmf_event_received","event":"5","received_at":1760000123}"#,
    r#"{"type":"mcp_list_tools.completed","event_id":"e","item_id":"item_e"}"#,
    r#"{"type":"response.mcp_call_arguments.done","event_id":"e","response_id":"r","item_id":"i","output_index":0,"arguments":"{}"}"#,
    r#"{"type":"response.mcp_call.completed","event_id":"e","item_id":"i","output_index":0}"#,
];

const PREVIEW_SESSION_CREATED: &str = r#"{"type":"session.created","event_id":"event_a","session":{"id":"sess_a","object":"realtime.session","model":"gpt-4o-realtime-preview-2024-12-17","expires_at":1750001800,"modalities":["text","audio"],"instructions":"<default>","voice":"alloy","speed":1.0,"turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"silence_duration_ms":200,"create_response":true,"interrupt_response":true},"input_audio_format":"pcm16","output_audio_format":"pcm16","input_audio_transcription":null,"input_audio_noise_reduction":null,"tool_choice":"auto","temperature":0.8,"max_response_output_tokens":"inf","tools":[],"tracing":null,"prompt":null,"client_secret":null,"include":null}}"#;

const GA_SESSION_CREATED: &str = r#"{"type":"session.created","event_id":"event_a","session":{"type":"realtime","object":"realtime.session","id":"sess_a","model":"gpt-4o-realtime-preview-2024-12-17","output_modalities":["audio"],"instructions":"<default>","tools":[],"tool_choice":"auto","max_output_tokens":"inf","tracing":null,"truncation":"auto","prompt":null,"expires_at":1750001800,"audio":{"input":{"format":{"type":"audio/pcm","rate":24000},"transcription":null,"noise_reduction":null,"turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"silence_duration_ms":200,"idle_timeout_ms":null,"create_response":true,"interrupt_response":true}},"output":{"format":{"type":"audio/pcm","rate":24000},"voice":"alloy","speed":1.0}},"include":null}}"#;

/// Every server event in either shape.
pub(crate) fn server_events() -> Vec<&'static str> {
    let pairs = SERVER_PAIRS
        .iter()
        .flat_map(|pair| pair.preview.iter().chain(pair.ga));
    pairs.chain(GA_ONLY).copied().collect()
}

/// Every client event in either shape.
pub(crate) fn client_events() -> Vec<&'static str> {
    CLIENT_PAIRS
        .iter()
        .flat_map(|pair| pair.preview.iter().chain(pair.ga))
        .copied()
        .collect()
}

/// The types of all server events.
pub(crate) fn server_types() -> Vec<String> {
    let name = |text: &&str| super::event_type(text).map(|name| name.into_owned());
    server_events()
        .iter()
        .filter_map(|text| name(text).ok())
        .collect()
}

/// A real event with a few bytes replaced, removed or doubled; stays UTF-8.
pub(crate) fn mutated(event: &str, edits: &[(usize, u8, u8)]) -> String {
    let mut bytes = event.as_bytes().to_vec();
    for &(place, how, byte) in edits {
        let place = place % bytes.len().max(1);
        match how % 3 {
            0 if place < bytes.len() => bytes[place] = byte,
            1 if place < bytes.len() => {
                bytes.remove(place);
            }
            _ => bytes.insert(place, byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
