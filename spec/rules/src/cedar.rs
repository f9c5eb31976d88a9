//! Policies in Cedar.
//!
//! ```cedar
//! @id("read")
//! permit (principal, action in [Tool::Action::"search", Tool::Action::"get_user"], resource);
//!
//! @id("amount") @reason("above 500")
//! forbid (principal, action == Tool::Action::"refund", resource) when { context.args.amount > 500 };
//!
//! @id("refund") @reason("a person decides") @hold("supervisor") @seconds("900")
//! forbid (principal, action == Tool::Action::"refund", resource);
//! ```
//!
//! `@id` is the rule's name: required, unique. `@reason` is for people. A `forbid` with `@hold` and `@seconds` does not
//! deny: where the other policies allow the call, it makes it wait for an approval by that role; with `@count("2")`, by
//! two different approvers. Where several hold, every role is needed.
//!
//! | | |
//! | --- | --- |
//! | principal | `Agent::"<agent name>"` |
//! | action | `Tool::Action::"<tool name>"`, `Model::Action::"call"`, `SubAgent::Action::"start"` |
//! | resource | `Run::"<run>"` |
//! | `context.args` | the tool's arguments, if they are a JSON object; else `context.call.args_error` |
//! | `context.call` | the other members of the call: `kind`, `name`, `model`, `provider`, `max_output`, ... |
//! | `context.facts`, `context.run`, `context.time` | as in [`crate::PolicyInput`] |
//! | `context.data` | the bundle's `data.json` |
//! | `context.agent` | its member `agents.<agent name>`, if there is one: Cedar has no computed members |
//!
//! JSON becomes Cedar so: an object is a record without its null members; an array is a set, so order and repetition are
//! lost; an integer is a `Long`, and so is a number whose decimals are zero; another number is a `decimal` of at most
//! four decimals. A number that fits neither denies the call.
//!
//! Sets have no size and records no computed member in Cedar. For every array and object in `args`, `facts` and `data`
//! that is reached through objects alone there is therefore, by path:
//!
//! | | |
//! | --- | --- |
//! | `context.count["args.passengers"]` | number of elements of the array |
//! | `context.keys["facts.user.payment_methods"]` | names of the object's members, as a set |
//! | `context.columns["args.payments.id"]` | the values of the member `id` over the array's objects, as a set |
//! | `context.items["args.payments[0]"]` | an element of the array, for the first 16 |
//!
//! A path does not lead through names that hold `.`, `[` or `]`.
//!
//! Reasons are published with the record. What goes wrong is reported by kind, without values of the call.
//!
//! Cedar skips a policy that errs, even a `forbid`. Here any error in any policy that concerns the action is a denial.
//! With `schema.cedarschema` the policies are validated against it (strictly) when the bundle is compiled; without one,
//! an action is in a list of the scope only if the list names it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::pst::{self, StaticPolicy, Template};
use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, Context, Decision, Effect as CedarEffect, Entities,
    EntityId, EntityTypeName, EntityUid, EvaluationError, Policy, PolicyId, PolicySet, Request,
    RestrictedExpression as Expr, Schema, ValidationMode, Validator,
};
use serde_json::{Map, Value};
use sift_spec::record::{HOLD_COUNT_MAX, Needed};
use sift_spec::types::{Text, Word};

use crate::bundle::CompileError;
use crate::cedar_needs::{self, Needs, OfRun};
use crate::cedar_value::{Shapes, Wanted, check, convert, convert_members, convert_needed, convert_part};
use crate::document::{Document, Documents, Fact, Members, Node};
use crate::explain::{Ended, RuleReport, RuleSet, Site};
use crate::nesting::cedar_operators;
use crate::verdict::{AskFor, Fired, FiredHold, HOLD_SECONDS_MAX, Verdict};

/// Engine and version that decides.
pub const ENGINE: &str = "cedar/cedar-policy-4.14.1";

/// Most pairs of a policy and an action that policies name: each policy is asked whether it concerns each action.
const PAIRS_MAX: usize = 1 << 23;

/// Most operators on the way to any part of a policy whose scope is taken off: Cedar's forms that have no text are made by
/// descending, some 4 KiB of stack for each, where compiling has to fit a thread of 2 MiB.
const OPERATORS_MAX: usize = 100;

/// Most policies in all slices together. Where there are more, every action is decided with all policies.
const MEMBERS_MAX: usize = 1 << 18;

/// Most policies in all slices together that a worker has for itself.
const OWN_MEMBERS_MAX: usize = 10_000;

/// A compiled Cedar policy.
#[derive(Debug)]
pub(crate) struct CedarPolicy {
    /// Every policy, in the order of sets and files.
    policies: Vec<(RuleSet, Site, Policy)>,
    parts: Parts,
    ready: Arc<Ready>,
}

/// What it takes to decide is made of.
#[derive(Debug)]
struct Parts {
    sorted: Vec<Sorted>,
    data: Members<'static>,
    entities: Entities,
    rules: BTreeMap<String, Rule>,
    /// Whether a schema may put actions into groups.
    groups: bool,
}

/// A handle on a compiled policy.
#[derive(Debug)]
pub(crate) struct CedarDecider {
    authorizer: Authorizer,
    documents: Documents,
    ready: Arc<Ready>,
    sliced: bool,
}

/// Policies in slices, and what they look at beside the input.
#[derive(Debug)]
struct Ready {
    /// Data by agent.
    agents: BTreeMap<String, Expr>,
    entities: Entities,
    names: Names,
    rules: BTreeMap<String, Rule>,
    /// Policies by the action they can concern.
    slices: BTreeMap<EntityUid, Slice>,
    /// Policies for an action that no scope names.
    rest: Slice,
    /// All policies.
    whole: Slice,
    /// What the slices look at of `run`.
    of_run: Arc<OfRun>,
    /// Policies in all slices together.
    members: usize,
}

/// Entity types of requests.
#[derive(Debug)]
struct Names {
    agent: EntityTypeName,
    model: EntityUid,
    run: EntityTypeName,
    sub_agent: EntityUid,
    tool: EntityTypeName,
}

/// What the annotations of a policy say.
#[derive(Debug, Clone)]
struct Rule {
    fired: Fired,
    hold: Option<AskFor>,
}

/// The policies that can concern one action.
#[derive(Debug)]
struct Slice {
    /// Those that allow or deny.
    base: PolicySet,
    /// Those that hold.
    holds: PolicySet,
    /// All of them; `None` where none holds.
    all: Option<PolicySet>,
    /// What they refer to of the context; of the data, that is here.
    needs: Needs,
    wanted: Wanted,
    data: Option<Expr>,
    data_shapes: Shapes,
}

/// A policy on its way into slices.
#[derive(Debug, Clone)]
struct Sorted {
    policy: Policy,
    /// The same for every action; only in slices of the actions that its scope names.
    of_slice: Option<Policy>,
    holds: bool,
}

impl CedarPolicy {
    pub(crate) fn compile(
        files: &BTreeMap<&str, &str>,
        schema: Option<&str>,
        data: Map<String, Value>,
    ) -> Result<Self, CompileError> {
        let in_file = |file: &str, why: String| CompileError::Policy { file: file.to_owned(), why };
        let mut rules = BTreeMap::new();
        let mut policies = Vec::new();
        let mut sites = Vec::new();
        for (file, source) in files {
            let parsed: PolicySet = source.parse().map_err(|error| in_file(file, format!("{error}")))?;
            if parsed.templates().next().is_some() {
                return Err(in_file(file, "templates are not supported".to_owned()));
            }
            let lines = lines_of_ids(source);
            for policy in parsed.policies() {
                let rule = Rule::read(policy).map_err(|why| in_file(file, why))?;
                let name = rule.fired.rule.to_string();
                let line = lines.get(format!("{name:?}").as_str()).copied();
                let named = policy.new_id(PolicyId::new(&name));
                sites.push((
                    rule.set(policy),
                    Site { rule: Some(name.clone()), file: (*file).to_owned(), line },
                    named.clone(),
                ));
                policies.push(Sorted::of(named, rule.hold.is_some(), schema.is_some()));
                if rules.insert(name.clone(), rule).is_some() {
                    return Err(in_file(file, format!("@id({name:?}) is given twice")));
                }
            }
        }
        if policies.is_empty() {
            return Err(CompileError::NoPolicy);
        }
        let entities = match schema {
            None => Entities::empty(),
            Some(source) => validate(source, &policies).map_err(|why| in_file("schema.cedarschema", why))?,
        };

        let in_all = |why: String| in_file(&files.keys().copied().collect::<Vec<_>>().join(", "), why);
        let in_data = |why| CompileError::Setting { file: "data.json".to_owned(), why };
        let data = Members::from(data);
        data.iter().try_for_each(|(_, member)| check(member)).map_err(in_data)?;
        sites.sort_by(|(set, site, _), (other, beside, _)| {
            (set, &site.file, site.line, &site.rule).cmp(&(other, &beside.file, beside.line, &beside.rule))
        });
        let parts = Parts { sorted: policies, data, entities, rules, groups: schema.is_some() };
        let ready = Arc::new(parts.make_ready().map_err(in_all)?);
        Ok(Self { policies: sites, parts, ready })
    }

    /// What became of every policy.
    pub(crate) fn explain(&self, input: &[u8]) -> Vec<RuleReport> {
        let document = Documents::default().read(input);
        let Ok((request, _)) = document.and_then(|input| self.ready.request(input, false)) else {
            return Vec::new();
        };
        let decider = self.decider(false);
        let one = |(set, site, policy): &(RuleSet, Site, Policy)| {
            let alone = PolicySet::from_policies([policy.clone()]).map_err(|error| error.to_string());
            let ended = match alone
                .and_then(|alone| Ok(decider.evaluate(&request, &alone)?.1.into_iter().cloned().collect()))
            {
                Err(why) => Ended::Failed(why),
                Ok(fired) if !Vec::is_empty(&fired) => {
                    let fired = fired.into_iter().map(|Rule { fired, hold }| match hold {
                        Some(hold) => FiredHold { fired, hold }.into(),
                        None => fired.into(),
                    });
                    Ended::Fired(fired.collect())
                }
                Ok(_) if concerns(policy, request.action(), self.parts.groups) => Ended::False,
                Ok(_) => Ended::OutOfScope,
            };
            site.report(*set, ended)
        };
        self.policies.iter().map(one).collect()
    }

    /// A decider, with slices or always with all policies.
    pub(crate) fn decider(&self, sliced: bool) -> CedarDecider {
        self.decider_of(&self.ready, sliced)
    }

    /// A decider whose policies are its own: Cedar counts references to what they are made of, and deciders that share
    /// them wait for each other's counts. `None` where there are too many.
    pub(crate) fn own_decider(&self) -> Option<CedarDecider> {
        if self.ready.members > OWN_MEMBERS_MAX {
            return None;
        }
        let own = self.parts.copy()?.make_ready().ok()?;
        Some(self.decider_of(&Arc::new(own), true))
    }

    fn decider_of(&self, ready: &Arc<Ready>, sliced: bool) -> CedarDecider {
        let sliced = sliced && ready.members <= MEMBERS_MAX;
        let documents =
            if sliced { Documents::with_run(Arc::clone(&ready.of_run)) } else { Documents::default() };
        CedarDecider { authorizer: Authorizer::new(), documents, ready: Arc::clone(ready), sliced }
    }
}

impl Parts {
    /// The actions that scopes name.
    fn actions(&self) -> BTreeSet<EntityUid> {
        let mut actions = BTreeSet::new();
        for Sorted { policy, .. } in &self.sorted {
            match policy.action_constraint() {
                ActionConstraint::Any => {}
                ActionConstraint::In(list) => actions.extend(list),
                ActionConstraint::Eq(action) => actions.extend([action]),
            }
        }
        actions
    }

    fn make_ready(&self) -> Result<Ready, String> {
        let Self { sorted, data, groups, .. } = self;
        let actions = self.actions();
        if actions.len().saturating_mul(sorted.len()) > PAIRS_MAX {
            return Err(format!(
                "{} policies that name {} actions: too many to sort by action; split the bundle",
                sorted.len(),
                actions.len()
            ));
        }
        let agents = data.get("agents").and_then(Node::as_object).into_iter().flat_map(Members::iter);
        let agents = agents.filter_map(|(agent, own)| Some((agent.to_owned(), convert(own).transpose()?)));
        let agents = agents.map(|(agent, own)| Ok((agent, own?))).collect::<Result<_, String>>()?;
        let slice = |action: Option<&EntityUid>| {
            Slice::of(sorted, data, false, |policy| concerns(policy, action, *groups))
        };
        let whole = Slice::of(sorted, data, true, |_| true)?;
        let rest = slice(None)?;
        let concerned = |Sorted { policy, .. }: &Sorted| match policy.action_constraint() {
            ActionConstraint::Eq(_) => 1,
            ActionConstraint::In(list) if !groups => list.len(),
            ActionConstraint::Any | ActionConstraint::In(_) => actions.len(),
        };
        let members: usize = sorted.iter().map(concerned).sum();
        let sliced = if members > MEMBERS_MAX { BTreeSet::new() } else { actions };
        let slices = sliced.into_iter().map(|action| Ok((action.clone(), slice(Some(&action))?)));
        let slices = slices.collect::<Result<_, String>>()?;
        let names = Names::new()?;
        let of_run = Arc::new(of_run(&slices, &rest, &names));
        let (entities, rules) = (self.entities.clone(), self.rules.clone());
        Ok(Ready { of_run, agents, entities, names, rules, slices, rest, whole, members })
    }

    /// The same, made of policies that were read again; `None` where one is not what it was.
    fn copy(&self) -> Option<Self> {
        let copy = |Sorted { policy, holds, .. }: &Sorted| {
            let read = Policy::parse(Some(PolicyId::new(policy.id())), policy.to_string()).ok()?;
            (read == *policy).then(|| Sorted::of(read, *holds, self.groups))
        };
        let sorted = self.sorted.iter().map(copy).collect::<Option<_>>()?;
        let (data, entities) = (self.data.clone(), self.entities.clone());
        Some(Self { sorted, data, entities, rules: self.rules.clone(), groups: self.groups })
    }
}

/// The line of each `@id`, by its text with quotes; of one that is given twice, the first.
fn lines_of_ids(source: &str) -> HashMap<&str, u32> {
    let mut lines = HashMap::new();
    for (line, text) in (1_u32..).zip(source.lines()) {
        for rest in text.split("@id(").skip(1) {
            let id = rest.split_once(')').map_or(rest, |(id, _)| id);
            lines.entry(id).or_insert(line);
        }
    }
    lines
}

/// Validates policies against a schema; gives its actions with their groups.
fn validate(source: &str, policies: &[Sorted]) -> Result<Entities, String> {
    let (schema, _warnings) = Schema::from_cedarschema_str(source).map_err(|error| error.to_string())?;
    let entities = schema.action_entities().map_err(|error| error.to_string())?;
    let all = PolicySet::from_policies(policies.iter().map(|sorted| sorted.policy.clone()));
    let all = all.map_err(|error| error.to_string())?;
    let result = Validator::new(schema).validate(&all, ValidationMode::Strict);
    let mut errors: Vec<String> = result.validation_errors().map(ToString::to_string).collect();
    errors.sort();
    if errors.is_empty() { Ok(entities) } else { Err(errors.join("; ")) }
}

impl Names {
    fn new() -> Result<Self, String> {
        let name = |text: &str| text.parse::<EntityTypeName>().map_err(|error| error.to_string());
        Ok(Self {
            agent: name("Agent")?,
            model: EntityUid::from_type_name_and_id(name("Model::Action")?, EntityId::new("call")),
            run: name("Run")?,
            sub_agent: EntityUid::from_type_name_and_id(name("SubAgent::Action")?, EntityId::new("start")),
            tool: name("Tool::Action")?,
        })
    }
}

impl Rule {
    fn set(&self, policy: &Policy) -> RuleSet {
        match (policy.effect(), &self.hold) {
            (CedarEffect::Permit, _) => RuleSet::Allow,
            (CedarEffect::Forbid, None) => RuleSet::Deny,
            (CedarEffect::Forbid, Some(_)) => RuleSet::Hold,
        }
    }

    fn read(policy: &Policy) -> Result<Self, String> {
        let id = policy.annotation("id").filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| format!("{}: every policy needs @id(\"...\")", policy.id()))?;
        let rule: Text<128> = id.parse().map_err(|_| format!("@id({id:?}) is longer than 128 bytes"))?;
        let reason = policy.annotation("reason").map(Text::cut);
        let count = policy.annotation("count");
        let hold = match (policy.annotation("hold"), policy.annotation("seconds")) {
            (None, None) if count.is_some() => return Err(format!("{id}: @count without @hold")),
            (None, None) => None,
            (Some(_), Some(_)) if policy.effect() != CedarEffect::Forbid => {
                return Err(format!("{id}: @hold belongs to a forbid policy"));
            }
            (Some(role), Some(seconds)) => {
                let role: Word = role.parse().map_err(|error| format!("{id}: @hold: {error}"))?;
                let seconds = seconds.parse().ok().filter(|seconds| (1..=HOLD_SECONDS_MAX).contains(seconds));
                let seconds = seconds.ok_or_else(|| {
                    format!("{id}: @seconds is not an integer from 1 to {HOLD_SECONDS_MAX}")
                })?;
                let count = count.map_or(Some(1), |count| count.parse().ok());
                let count = count
                    .filter(|count| (1..=HOLD_COUNT_MAX).contains(count))
                    .ok_or_else(|| format!("{id}: @count is not an integer from 1 to {HOLD_COUNT_MAX}"))?;
                Some(AskFor { needed: Needed { count, role }, seconds })
            }
            _ => return Err(format!("{id}: @hold and @seconds belong together")),
        };
        Ok(Self { fired: Fired { rule, reason }, hold })
    }
}

/// Whether the scope of a policy can match `action`, or, without one, an action that no scope names. With `groups` an
/// action may be in a listed group, so lists match whatever the action.
fn concerns(policy: &Policy, action: Option<&EntityUid>, groups: bool) -> bool {
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::In(list) => groups || action.is_some_and(|action| list.contains(action)),
        ActionConstraint::Eq(only) => Some(&only) == action,
    }
}

/// A policy without what its scope says of the action, for slices of the actions that it matches: Cedar makes the
/// condition of a policy anew, scope and all, each time that it is asked. `None` where the scope says nothing, or may
/// not match an action that it concerns; and where the policy is too deep, which only takes longer.
fn without_action(policy: &Policy, groups: bool) -> Option<Policy> {
    match policy.action_constraint() {
        ActionConstraint::Any => return None,
        ActionConstraint::In(_) if groups => return None,
        ActionConstraint::In(_) | ActionConstraint::Eq(_) => {}
    }
    if cedar_operators(&policy.to_string()) > OPERATORS_MAX {
        return None;
    }
    let read = |template: Template| Policy::from_pst(StaticPolicy::try_from(template).ok()?.into()).ok();
    let mut template = policy.to_pst().ok()?.body().clone();
    if read(template.clone())? != *policy {
        // What decides would be another policy.
        return None;
    }
    template.action = pst::ActionConstraint::Any;
    read(template)
}

impl Sorted {
    fn of(policy: Policy, holds: bool, groups: bool) -> Self {
        Self { of_slice: without_action(&policy, groups), policy, holds }
    }
}

impl Slice {
    /// The policies that concern an action, with what they refer to; or all of them as they are, with everything.
    fn of(
        policies: &[Sorted],
        data: &Members<'_>,
        everything: bool,
        concerns: impl Fn(&Policy) -> bool,
    ) -> Result<Self, String> {
        let (mut base, mut holds, mut all) = (PolicySet::new(), PolicySet::new(), PolicySet::new());
        let chosen: Vec<_> = policies.iter().filter(|sorted| concerns(&sorted.policy)).collect();
        for Sorted { policy, of_slice, holds: holds_call } in &chosen {
            let policy = of_slice.as_ref().filter(|_| !everything).unwrap_or(policy);
            for set in [if *holds_call { &mut holds } else { &mut base }, &mut all] {
                set.add(policy.clone()).map_err(|error| error.to_string())?;
            }
        }
        let all = (!everything && !holds.is_empty()).then_some(all);
        let needs =
            if everything { Needs::whole() } else { Needs::of(chosen.iter().map(|sorted| &sorted.policy)) };
        let wanted = Wanted::of(&needs);
        let mut data_shapes = Shapes::default();
        data_shapes.add_object("data", data, &wanted)?;
        let data = match needs.get("data") {
            Some(needs) if !data.is_empty() => Some(convert_needed(data, needs)?),
            _ => None,
        };
        Ok(Self { base, holds, all, needs, wanted, data, data_shapes })
    }

    /// The members of `run` that it refers to, and what makes the request.
    fn of_run(&self) -> cedar_needs::Members {
        let id = "id".to_owned();
        match self.needs.get("run") {
            Some(run) if run.whole => None,
            Some(run) => Some(Arc::new(run.members().map(|(name, _)| name.clone()).chain([id]).collect())),
            None => Some(Arc::new(BTreeSet::from([id]))),
        }
    }
}

/// What the slices refer to of `run`.
fn of_run(slices: &BTreeMap<EntityUid, Slice>, rest: &Slice, names: &Names) -> OfRun {
    let of = |action: &EntityUid| slices.get(action).unwrap_or(rest).of_run();
    let tools = slices.iter().filter(|(action, _)| *action.type_name() == names.tool);
    let tools = tools.map(|(action, slice)| (action.id().unescaped().to_owned(), slice.of_run()));
    OfRun {
        agent: of(&names.sub_agent),
        model: of(&names.model),
        tools: tools.collect(),
        rest: rest.of_run(),
    }
}

impl CedarDecider {
    /// The verdict, or why the evaluation failed.
    pub(crate) fn decide(&mut self, input: &[u8]) -> Result<Verdict, String> {
        let input = self.documents.read(input).map_err(|why| format!("the policy input: {why}"))?;
        let (request, slice) = self.ready.request(input, self.sliced)?;
        if let Some(verdict) = self.at_once(&request, slice) {
            return Ok(verdict);
        }
        let (decision, fired) = self.evaluate(&request, &slice.base)?;
        let fired: Vec<Fired> = fired.into_iter().map(|rule| rule.fired.clone()).collect();
        if decision == Decision::Deny {
            return Ok(Verdict::combine(fired, Vec::new(), Vec::new()));
        }
        let mut holds = Vec::new();
        if !slice.holds.is_empty() {
            let (_, held) = self.evaluate(&request, &slice.holds)?;
            for Rule { fired, hold } in held {
                let hold = hold.clone().ok_or("a hold without a role")?;
                holds.push(FiredHold { fired: fired.clone(), hold });
            }
        }
        Ok(Verdict::combine(Vec::new(), holds, fired))
    }

    /// The verdict of one evaluation of all policies together, where that says it: a policy that holds is a `forbid` to
    /// Cedar, which names every `forbid` that fires, but beside one no `permit`.
    fn at_once(&self, request: &Request, slice: &Slice) -> Option<Verdict> {
        // What errs is told apart by sets: a policy that holds may err where another denies.
        let (decision, fired) = self.evaluate(request, slice.all.as_ref()?).ok()?;
        if decision == Decision::Allow {
            let allows = fired.into_iter().map(|rule| rule.fired.clone()).collect();
            return Some(Verdict::combine(Vec::new(), Vec::new(), allows));
        }
        let is_held = !fired.is_empty() && fired.iter().all(|rule| rule.hold.is_some());
        let denies = fired.into_iter().filter(|rule| rule.hold.is_none()).map(|rule| rule.fired.clone());
        (!is_held).then(|| Verdict::combine(denies.collect(), Vec::new(), Vec::new()))
    }

    fn evaluate(&self, request: &Request, policies: &PolicySet) -> Result<(Decision, Vec<&Rule>), String> {
        let response = self.authorizer.is_authorized(request, policies, &self.ready.entities);
        let mut errors: Vec<String> = response.diagnostics().errors().map(describe).collect();
        if !errors.is_empty() {
            // Cedar says nothing of their order.
            errors.sort();
            return Err(errors.join("; "));
        }
        let rule = |id: &PolicyId| self.ready.rules.get::<str>(id.as_ref()).ok_or("an unknown policy fired");
        let fired = response.diagnostics().reason().map(rule).collect::<Result<_, _>>()?;
        Ok((response.decision(), fired))
    }
}

/// Which policy failed, and how. Cedar's own words quote values of the call, and reasons are published.
fn describe(error: &AuthorizationError) -> String {
    let AuthorizationError::PolicyEvaluationError(error) = error;
    let kind = match error.inner() {
        EvaluationError::EntityAttrDoesNotExist(_)
        | EvaluationError::EntityDoesNotExist(_)
        | EvaluationError::RecordAttrDoesNotExist(_) => "a member is not there",
        EvaluationError::FailedExtensionFunctionExecution(_) => "a function does not take its arguments",
        EvaluationError::IntegerOverflow(_) => "a number passes 64 bits",
        EvaluationError::RecursionLimit(_) => "nested too deeply",
        EvaluationError::TypeError(_) => "a value is of the wrong type",
        _ => "it cannot be evaluated",
    };
    format!("{}: {kind}", error.policy_id())
}

impl Ready {
    /// The request that an input makes, and the policies that decide it.
    fn request(&self, input: Document<'_>, sliced: bool) -> Result<(Request, &Slice), String> {
        let Document { members: mut input, facts, small } = input;
        let mut call = take_object(&mut input, "call")?;
        let kind = take_text(&call, "kind")?;
        let action = match kind.as_str() {
            "agent" => self.names.sub_agent.clone(),
            "model" => self.names.model.clone(),
            "tool" => EntityUid::from_type_name_and_id(
                self.names.tool.clone(),
                EntityId::new(take_text(&call, "name")?),
            ),
            _ => return Err("the policy input: an unknown kind of call".to_owned()),
        };
        let agent = take_text(&input, "agent")?;
        let args = call.remove("args");
        let facts = facts.ok_or("the policy input: facts is not an object")?;
        let run = take_object(&mut input, "run")?;
        let run_id = EntityId::new(take_text(&run, "id")?);

        // What no policy refers to is not made; but a number that Cedar does not have denies the call wherever it is.
        if !small {
            for part in [&call, &run] {
                part.iter().try_for_each(|(_, member)| check(member))?;
            }
            facts.iter().try_for_each(|(_, fact)| check(fact))?;
            args.iter().chain(input.get("time")).try_for_each(check)?;
        }
        let slice = if sliced { self.slices.get(&action).unwrap_or(&self.rest) } else { &self.whole };
        let needs = &slice.needs;
        let mut shapes = slice.data_shapes.clone();
        shapes.add_members("facts", facts.iter().map(named), &slice.wanted)?;
        let mut context = Vec::new();
        for (name, part) in [("call", &call), ("run", &run)] {
            if let Some(needs) = needs.get(name) {
                context.push((name.to_owned(), convert_needed(part, needs)?));
            }
        }
        if let Some(needs) = needs.get("facts") {
            context.push(("facts".to_owned(), convert_members(facts.iter().map(named), needs)?));
        }
        if let Some(args) = &args {
            shapes.add("args", args, &slice.wanted)?;
        }
        for (name, part) in [("args", args.as_ref()), ("time", input.get("time"))] {
            if let (Some(part), Some(needs)) = (part, needs.get(name)) {
                context.extend(convert_part(part, needs)?.map(|part| (name.to_owned(), part)));
            }
        }
        context.extend(slice.data.clone().map(|data| ("data".to_owned(), data)));
        if needs.get("agent").is_some() {
            context.extend(self.agents.get(&agent).map(|own| ("agent".to_owned(), own.clone())));
        }
        context.extend(shapes.into_records(needs)?);
        let context = Context::from_pairs(context).map_err(|_| "the context is not a value for Cedar")?;
        let principal = EntityUid::from_type_name_and_id(self.names.agent.clone(), EntityId::new(agent));
        let resource = EntityUid::from_type_name_and_id(self.names.run.clone(), run_id);
        let request = Request::new(principal, action, resource, context, None)
            .map_err(|_| "the call is not a request for Cedar".to_owned())?;
        Ok((request, slice))
    }
}

fn named<'a>((name, fact): &'a Fact<'_>) -> (&'a str, &'a Node<'a>) {
    (name, fact)
}

fn take_object<'a>(object: &mut Members<'a>, name: &str) -> Result<Members<'a>, String> {
    match object.remove(name) {
        Some(Node::Object(member)) => Ok(member),
        _ => Err(format!("the policy input: {name} is not an object")),
    }
}

fn take_text(object: &Members<'_>, name: &str) -> Result<String, String> {
    let text = object.get(name).and_then(Node::as_str);
    text.map(str::to_owned).ok_or_else(|| format!("the policy input: {name} is not a string"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_scope_is_taken_off_and_nothing_else_changes() {
        let conditions = [
            "",
            r#"when { context.args.to like "*\*x" } unless { context has args.to.x }"#,
            r#"when { principal is Agent && resource == Run::"\"\u{1f}é" }"#,
            r#"when { principal is Agent in Agent::"all" || {"a b": -9223372036854775808}["a b"] < 1 }"#,
            r#"when { if context.a then decimal("1.5").lessThan(context.d) else [1, "x", ip("1.2.3.4")].contains(context.e) }"#,
            r#"when { {"__entity": 1, "__extn": {"fn": "ip"}} == context.f && !(!context.g) && 1 - (2 - 3) * 4 == context.h }"#,
        ];
        for condition in conditions {
            for scope in [r#"== Tool::Action::"x y""#, r#"in [Tool::Action::"x", Model::Action::"call"]"#] {
                let text = format!(
                    "@id(\"a\") @reason(\"é\") @flag forbid (principal, action {scope}, resource) {condition};"
                );
                let policy = Policy::parse(Some(PolicyId::new("a")), &text).unwrap();
                let open = without_action(&policy, false).unwrap_or_else(|| panic!("{text}"));
                let mut expected = policy.to_json().unwrap();
                expected["action"] = json!({"op": "All"});
                assert_eq!(open.to_json().unwrap(), expected, "{text}");
                assert_eq!((open.id(), open.annotation("reason")), (policy.id(), Some("é")), "{text}");
                assert_eq!(without_action(&policy, true).is_some(), scope.starts_with("=="), "{text}");
            }
        }
        let deep = format!(
            r#"permit (principal, action == Tool::Action::"x", resource) when {{ 1{} == 1 }};"#,
            " + 1".repeat(101)
        );
        assert!(without_action(&Policy::parse(None, deep).unwrap(), false).is_none());
    }
}
