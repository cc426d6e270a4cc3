//! The model's own chat template, run where it can do little harm: no files, no other templates, bounded steps and output.
//! Memory is not bounded: texts doubled within a template, or an expression of very many terms, still end the process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::clock::Moment;
use super::guard::Guarded;
use crate::{EngineError, Role};

/// Instructions per render; a chat of a thousand messages takes about a hundred thousand.
const FUEL: u64 = 20_000_000;
/// Bytes of template source; the largest known has 20 KB.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// What a template may add to the contents.
const MAX_ADDED_BYTES: usize = 16 << 20;

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles a template. The date it may print is that of this moment, so that prompts stay the same while the
    /// model is loaded.
    pub fn new(source: String, bos_token: String, eos_token: String) -> Result<Self, EngineError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(EngineError::Template(format!("a source of {} B", source.len())));
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let now = Moment::now();
        environment.add_function("strftime_now", move |format: String| now.strftime(&format));
        environment.add_filter("tojson", python_json);
        // They take a width and allocate it; no chat template in use needs them.
        environment.remove_filter("indent");
        environment.remove_filter("format");
        environment.add_template_owned(NAME, rewrite(&source)).map_err(|e| failed(&e))?;
        Ok(Self { environment, bos_token, eos_token })
    }

    /// Renders guarded messages.
    pub(super) fn render(&self, guarded: &Guarded) -> Result<String, EngineError> {
        let messages: Vec<Value> = guarded
            .messages
            .iter()
            .map(|m| {
                let role = match m.role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                context! { role => role, content => m.content }
            })
            .collect();
        let contents: usize = guarded.messages.iter().map(|m| m.content.len()).sum();
        let mut out = Bounded { bytes: Vec::new(), limit: 2 * contents + MAX_ADDED_BYTES };
        let template = self.environment.get_template(NAME).map_err(|e| failed(&e))?;
        let context = context! {
            messages => messages,
            add_generation_prompt => guarded.add_generation_prompt,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
            // Qwen3 would think aloud at length before it answers.
            enable_thinking => false,
        };
        // Sizes that a template asks for may panic in the interpreter.
        match catch_unwind(AssertUnwindSafe(|| template.render_captured_to(context, &mut out))) {
            Ok(rendered) => rendered.map_err(|e| failed(&e))?,
            Err(_) => return Err(EngineError::Template("it asks for more than there is".into())),
        };
        String::from_utf8(out.bytes).map_err(|_| EngineError::Template("its output is not UTF-8".into()))
    }
}

/// Methods of Python's texts, lists and maps.
fn python_method(state: &State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    // As with the filters: what stands behind a colon may be a width.
    let sized =
        |text: &str| text.split('{').skip(1).any(|field| field.split('}').next().is_some_and(|f| f.contains(':')));
    if method == "format" && value.as_str().is_some_and(sized) {
        return Err(Error::new(ErrorKind::InvalidOperation, "format with a width"));
    }
    unknown_method_callback(state, value, method, arguments)
}

fn failed(error: &Error) -> EngineError {
    let place = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    EngineError::Template(format!("{detail}{place}"))
}

/// Python spellings that the template language lacks. The marks of training become a condition that holds, so that blanks
/// around them go as the marks say.
fn rewrite(source: &str) -> String {
    let mut rewritten = source.replace("[::-1]", "|reverse");
    for open in ["{%", "{%-", "{%+"] {
        for close in ["%}", "-%}", "+%}"] {
            for (mark, statement) in [("generation", "if true"), ("endgeneration", "endif")] {
                rewritten =
                    rewritten.replace(&format!("{open} {mark} {close}"), &format!("{open} {statement} {close}"));
            }
        }
    }
    rewritten
}

/// JSON as Python's `json.dumps` prints it: blanks after commas and colons, nothing escaped for HTML.
fn python_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let refused = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    if let Some(width) = indent {
        let blanks = " ".repeat(width.min(16));
        let formatter = serde_json::ser::PrettyFormatter::with_indent(blanks.as_bytes());
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
        serde::Serialize::serialize(value, &mut serializer).map_err(refused)?;
    } else {
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, PythonSpacing);
        serde::Serialize::serialize(value, &mut serializer).map_err(refused)?;
    }
    let text = String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(text))
}

struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// A buffer that refuses to grow past a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + buf.len() > self.limit {
            return Err(io::Error::other("the template writes without end"));
        }
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
