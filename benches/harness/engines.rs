//! regorus's virtual machine and cedar-policy as they come: what Sift's decisions are compared with.

use std::time::Instant;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
};
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use serde_json::{Map, Value};
use sift_spec::bundle::Bundle;

use crate::AnyError;

/// Asks for the three sets in one evaluation.
const ENTRY: &str = "package entry\n\nanswer := {\"allow\": data.sift.allow, \"deny\": data.sift.deny, \"hold\": data.sift.hold}\n";
const ENTRY_POINT: &str = "data.entry.answer";

/// regorus's register machine with a policy of package `sift`, all rules in one program.
pub struct Machine(RegoVM);

impl Machine {
    /// Compiles a policy with its `data.json`.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn new(policy: String, data: &str) -> Result<Self, AnyError> {
        let mut engine = regorus::Engine::new();
        engine.add_policy("policy.rego".to_owned(), policy)?;
        engine.add_policy("entry.rego".to_owned(), ENTRY.to_owned())?;
        let compiled = engine.compile_with_entrypoint(&ENTRY_POINT.into())?;
        let program = Compiler::compile_from_policy(&compiled, &[ENTRY_POINT])?;
        let mut machine = RegoVM::new();
        machine.load_program(program);
        machine.set_data(regorus::Value::from_json_str(data)?)?;
        Ok(Self(machine))
    }

    /// How many rules of each set fired: `allow`, `deny`, `hold`.
    ///
    /// # Errors
    /// When the evaluation fails.
    pub fn decide(&mut self, input: &[u8]) -> Result<[usize; 3], AnyError> {
        self.0.set_input(regorus::Value::from_json_str(std::str::from_utf8(input)?)?);
        let answer = self.0.execute_entry_point_by_name(ENTRY_POINT)?;
        let count = |set: &str| Ok::<_, AnyError>(answer[set].as_set()?.len());
        Ok([count("allow")?, count("deny")?, count("hold")?])
    }
}

/// How many of these inputs a second machines of their own decide on all cores, each `rounds` times.
///
/// # Errors
/// When the bundle is not one of Rego, or an evaluation fails.
pub fn machine_rate(bundle: &Bundle, inputs: &[Vec<u8>], rounds: usize) -> Result<f64, AnyError> {
    let mut files = bundle.files().iter();
    let policy = files.find(|(path, _)| path.ends_with(".rego")).ok_or("a bundle without Rego")?.1;
    let policy = String::from_utf8(policy.clone())?;
    let data = bundle.files().get("data.json").map_or(&b"{}"[..], Vec::as_slice);
    let data = std::str::from_utf8(data)?;
    let workers = std::thread::available_parallelism()?.get();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let work = || {
            let mut machine = Machine::new(policy.clone(), data).map_err(|error| error.to_string())?;
            for input in std::iter::repeat_n(inputs, rounds).flatten() {
                machine.decide(input).map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a panic".to_owned())))
    })?;
    Ok((workers * rounds * inputs.len()) as f64 / start.elapsed().as_secs_f64())
}

/// cedar-policy's authorizer with all policies in one set, and the input as the context.
pub struct Cedar {
    authorizer: Authorizer,
    policies: PolicySet,
    tool: EntityTypeName,
    agent: EntityTypeName,
    run: EntityTypeName,
}

impl Cedar {
    /// Reads policies.
    ///
    /// # Errors
    /// When they do not parse.
    pub fn new(policies: &str) -> Result<Self, AnyError> {
        Ok(Self {
            authorizer: Authorizer::new(),
            policies: policies.parse()?,
            tool: "Tool::Action".parse()?,
            agent: "Agent".parse()?,
            run: "Run".parse()?,
        })
    }

    /// Whether a tool call is allowed.
    ///
    /// # Errors
    /// When the input is no request, or a policy errs.
    pub fn decide(&self, input: &[u8]) -> Result<bool, AnyError> {
        let mut input: Map<String, Value> = serde_json::from_slice(input)?;
        let text = |value: &Value| EntityId::new(value.as_str().unwrap_or_default());
        let uid = |of: &EntityTypeName, id: EntityId| EntityUid::from_type_name_and_id(of.clone(), id);
        let principal = uid(&self.agent, text(&input["agent"]));
        let action = uid(&self.tool, text(&input["call"]["name"]));
        let resource = uid(&self.run, text(&input["run"]["id"]));
        let args = input["call"].as_object_mut().and_then(|call| call.remove("args"));
        input.extend(args.map(|args| ("args".to_owned(), args)));
        let context = Context::from_json_value(Value::Object(input), None)?;
        let request = Request::new(principal, action, resource, context, None)?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &Entities::empty());
        match response.diagnostics().errors().next() {
            Some(error) => Err(error.to_string().into()),
            None => Ok(response.decision() == Decision::Allow),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::decisions::hundred;
    use crate::rules::{self, Language};

    #[test]
    fn they_allow_the_generated_calls() {
        let mut machine = Machine::new(rules::hundred(Language::Rego), "{}").unwrap();
        let cedar = Cedar::new(&rules::hundred(Language::Cedar)).unwrap();
        for input in hundred().unwrap() {
            assert_eq!(machine.decide(&input).unwrap(), [1, 0, 0]);
            assert!(cedar.decide(&input).unwrap());
        }
    }
}
