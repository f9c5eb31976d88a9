//! Makes a compiled Rego program fail where it would look away.
//!
//! The virtual machine of regorus 0.14.1 treats most errors in a rule's body as "this body is not satisfied": a
//! denial whose condition divides by zero, compares a number with a string or passes a builtin the wrong type would
//! silently not fire. Only what it calls resource limits ends an evaluation. So, before a program is used:
//!
//! * every builtin is replaced with one that reports any error of its own as such a limit, with the builtin's number;
//! * every arithmetic instruction, and every comparison by order, becomes a call of such a builtin; values of different
//!   types have no order;
//! * what can be wrong without an error is refused: definitions of one rule or function that may contradict one another,
//!   rules and comprehensions that build objects and may set a member twice, and lookups in `data` by a computed path
//!   that may meet rules;
//! * so are lookups by a variable, and `some`, in the body of `every`, which the compiler takes for a search;
//! * rules and functions that call themselves, through others too, are refused: the compiler finds only some;
//! * only the builtins listed here may occur: none has a clock, randomness, network or output, and none makes much from
//!   little (`numbers.range`).
//!
//! The number of instructions, jumps and registers stay as compiled.

use regorus::LimitError;
use regorus::Value;
use regorus::rvm::Instruction;
use regorus::rvm::instructions::{BuiltinCallParams, ComprehensionMode, LoopMode};
use regorus::rvm::program::{BuiltinInfo, Program, RuleType};
use regorus::rvm::vm::VmError;
use regorus::unstable::{ArithOp, BUILTINS, BoolOp, BuiltinFcn, Expr, Ref, Span, comparison, numbers};

type Arguments<'a> = (&'a Span, &'a [Ref<Expr>], &'a [Value]);

/// A builtin, or an instruction that became one.
struct Strict {
    name: &'static str,
    function: BuiltinFcn,
}

macro_rules! builtins {
    ($($name:literal $arity:literal)*) => {
        &[$(Strict {
            name: $name,
            function: (|span, exprs, args, _| Ok(builtin($name, (span, exprs, args))?), $arity),
        }),*]
    };
}

macro_rules! operators {
    ($($name:literal $run:expr;)*) => {
        &[$(Strict {
            name: $name,
            function: (|span, exprs, args, _| Ok(operator($name, (span, exprs, args), $run)?), 2),
        }),*]
    };
}

/// The builtins that a policy may use, with their number of arguments.
const BUILTINS_ALLOWED: &[Strict] = builtins! {
    "__builtin_sets.intersection" 2 "__builtin_sets.union" 2
    "abs" 1 "array.concat" 2 "array.reverse" 1 "array.slice" 3
    "base64.decode" 1 "base64.encode" 1 "base64.is_valid" 1
    "bits.and" 2 "bits.negate" 1 "bits.or" 2 "bits.xor" 2
    "ceil" 1 "concat" 2 "contains" 2 "count" 1 "endswith" 2 "floor" 1 "format_int" 2
    "glob.match" 3 "glob.quote_meta" 1 "hex.decode" 1 "hex.encode" 1 "indexof" 2 "indexof_n" 2 "intersection" 1
    "is_array" 1 "is_boolean" 1 "is_null" 1 "is_number" 1 "is_object" 1 "is_set" 1 "is_string" 1
    "json.filter" 2 "json.is_valid" 1 "json.marshal" 1 "json.remove" 2 "json.unmarshal" 1 "lower" 1 "max" 1 "min" 1
    "object.filter" 2 "object.get" 3 "object.keys" 1 "object.remove" 2 "object.subset" 2 "object.union" 2
    "object.union_n" 1 "product" 1
    "regex.find_n" 3 "regex.is_valid" 1 "regex.match" 2 "regex.replace" 3 "regex.split" 2 "regex.template_match" 4
    "replace" 3 "round" 1 "semver.compare" 2 "semver.is_valid" 1 "sort" 1 "split" 2 "sprintf" 2 "startswith" 2
    "strings.any_prefix_match" 2 "strings.any_suffix_match" 2 "strings.count" 2 "strings.replace_n" 2
    "strings.reverse" 1 "substring" 3 "sum" 1 "to_number" 1
    "trim" 2 "trim_left" 2 "trim_prefix" 2 "trim_right" 2 "trim_space" 1 "trim_suffix" 2
    "type_name" 1 "union" 1 "units.parse" 1 "units.parse_bytes" 1 "upper" 1
};

/// Instructions that become calls. The order is that of [`operator_of`].
const OPERATORS: &[Strict] = operators! {
    "+" |args| arithmetic(args, &ArithOp::Add);
    "-" difference;
    "*" |args| arithmetic(args, &ArithOp::Mul);
    "/" |args| arithmetic(args, &ArithOp::Div);
    "%" |args| arithmetic(args, &ArithOp::Mod);
    "<" |args| order(args, &BoolOp::Lt);
    "<=" |args| order(args, &BoolOp::Le);
    ">" |args| order(args, &BoolOp::Gt);
    ">=" |args| order(args, &BoolOp::Ge);
};

/// Longest chain of calls between rules and functions.
const CALLS_DEEP_MAX: usize = 64;

/// Error numbers below this are genuine size limits of regular expressions.
const ERROR_BASE: usize = usize::MAX / 2;

/// Which builtin or operator an evaluation failed in, if it failed in one.
pub(crate) fn failed_in(error: &VmError) -> Option<&'static str> {
    let VmError::RegexSizeLimitExceeded { limit, .. } = error else { return None };
    let number = limit.checked_sub(ERROR_BASE)?;
    BUILTINS_ALLOWED.iter().chain(OPERATORS).nth(number).map(|strict| strict.name)
}

/// Makes a program strict.
///
/// # Errors
/// When the program uses what cannot be made strict; the text says what and what to write instead.
pub(crate) fn harden(program: &mut Program) -> Result<(), String> {
    for rule in &program.rule_infos {
        if rule.rule_type == RuleType::PartialObject {
            return Err(format!(
                "rule {} builds an object member by member, which may set one twice",
                rule.name
            ));
        }
        let complete = rule.rule_type == RuleType::Complete || rule.function_info.is_some();
        if complete && rule.definitions.len() > 1 && !rule.early_exit_on_first_success {
            return Err(format!(
                "{} has several definitions that may contradict one another: join them with else",
                rule.name
            ));
        }
    }
    let comprehensions = &program.instruction_data.comprehension_begin_params;
    if comprehensions.iter().any(|params| matches!(params.mode, ComprehensionMode::Object)) {
        return Err("an object comprehension may set a member twice: use a set or an array".to_owned());
    }
    // The compiler takes the variable of `every` for a free one where it is an index: a search, which any element ends.
    let loops = &program.instruction_data.loop_params;
    for every in loops.iter().filter(|params| matches!(params.mode, LoopMode::Every)) {
        let body = usize::from(every.body_start)..usize::from(every.loop_end);
        let body = program.instructions.get(body).unwrap_or_default();
        if body.iter().any(|instruction| matches!(instruction, Instruction::LoopStart { .. })) {
            return Err(
                "a lookup by a variable, or some, in the body of every: move it into a function".to_owned()
            );
        }
    }
    let mut resolved = Vec::with_capacity(program.builtin_info_table.len() + OPERATORS.len());
    for info in &program.builtin_info_table {
        let strict = BUILTINS_ALLOWED.iter().find(|strict| strict.name == info.name);
        resolved.push(strict.ok_or_else(|| format!("the builtin {} is not allowed", info.name))?.function);
    }
    let first_operator = resolved.len();
    for strict in OPERATORS {
        resolved.push(strict.function);
        program.builtin_info_table.push(BuiltinInfo { name: strict.name.to_owned(), num_args: 2 });
    }
    program.resolved_builtins = resolved;
    for instruction in &mut program.instructions {
        if let Some((operator, dest, left, right)) = operator_of(instruction) {
            let calls = &mut program.instruction_data.builtin_call_params;
            let index = |n: usize| u16::try_from(n).map_err(|_| "too many calls".to_owned());
            let params_index = index(calls.len())?;
            let builtin_index = index(first_operator + operator)?;
            let args = [left, right, 0, 0, 0, 0, 0, 0];
            calls.push(BuiltinCallParams { dest, builtin_index, num_args: 2, args });
            *instruction = Instruction::BuiltinCall { params_index };
        }
        check(instruction)?;
    }
    check_calls(program)
}

/// Rules and functions may call one another, but never in a circle, and not deeper than [`CALLS_DEEP_MAX`]: the virtual
/// machine follows calls on the stack of its thread.
fn check_calls(program: &Program) -> Result<(), String> {
    let mut attributed = 0;
    let mut callees: Vec<Vec<usize>> = Vec::with_capacity(program.rule_infos.len());
    for rule in &program.rule_infos {
        let bodies = rule.definitions.iter().flatten().chain(rule.destructuring_blocks.iter().flatten());
        let mut called = Vec::new();
        for start in bodies {
            called.extend(calls_from(program, *start as usize));
        }
        attributed += called.len();
        callees.push(called);
    }
    let entries =
        program.entry_points.values().map(|start| calls_from(program, *start).count()).sum::<usize>();
    let all =
        program.instructions.iter().filter(|instruction| callee(program, instruction).is_some()).count();
    if attributed + entries != all {
        return Err("the calls of this program cannot be followed".to_owned());
    }
    // Length of the longest chain of calls from each rule, by passes: a circle never settles.
    let mut deepest = vec![0_usize; callees.len()];
    for _ in 0..=CALLS_DEEP_MAX {
        let next: Vec<usize> = callees
            .iter()
            .map(|called| {
                called.iter().filter_map(|rule| deepest.get(*rule)).max().map_or(0, |deep| deep + 1)
            })
            .collect();
        if next == deepest {
            return Ok(());
        }
        deepest = next;
    }
    let worst = deepest.iter().zip(&program.rule_infos).max_by_key(|(deep, _)| **deep);
    let name = worst.map_or("a rule", |(_, rule)| rule.name.as_str());
    Err(format!("{name} calls itself, or calls go deeper than {CALLS_DEEP_MAX}"))
}

/// The rules called between `start` and the end of that body.
fn calls_from(program: &Program, start: usize) -> impl Iterator<Item = usize> + '_ {
    let body = program.instructions.iter().skip(start);
    let is_end = |instruction: &Instruction| {
        matches!(
            instruction,
            Instruction::RuleReturn {} | Instruction::DestructuringSuccess {} | Instruction::Return { .. }
        )
    };
    body.take_while(move |instruction| !is_end(instruction))
        .filter_map(|instruction| callee(program, instruction))
}

fn callee(program: &Program, instruction: &Instruction) -> Option<usize> {
    match instruction {
        Instruction::CallRule { rule_index, .. } => Some(usize::from(*rule_index)),
        Instruction::FunctionCall { params_index } => {
            let params = program.instruction_data.get_function_call_params(*params_index)?;
            Some(usize::from(params.func_rule_index))
        }
        _ => None,
    }
}

/// The operator, destination, left and right register of an instruction that must become a call.
const fn operator_of(instruction: &Instruction) -> Option<(usize, u8, u8, u8)> {
    Some(match *instruction {
        Instruction::Add { dest, left, right } => (0, dest, left, right),
        Instruction::Sub { dest, left, right } => (1, dest, left, right),
        Instruction::Mul { dest, left, right } => (2, dest, left, right),
        Instruction::Div { dest, left, right } => (3, dest, left, right),
        Instruction::Mod { dest, left, right } => (4, dest, left, right),
        Instruction::Lt { dest, left, right } => (5, dest, left, right),
        Instruction::Le { dest, left, right } => (6, dest, left, right),
        Instruction::Gt { dest, left, right } => (7, dest, left, right),
        Instruction::Ge { dest, left, right } => (8, dest, left, right),
        _ => return None,
    })
}

/// Lets pass only instructions known to have no error of their own on values that a policy can make.
fn check(instruction: &Instruction) -> Result<(), String> {
    use Instruction as I;
    match instruction {
        I::Load { .. }
        | I::LoadTrue { .. }
        | I::LoadFalse { .. }
        | I::LoadNull { .. }
        | I::LoadBool { .. } => Ok(()),
        I::LoadData { .. }
        | I::LoadInput { .. }
        | I::Move { .. }
        | I::Eq { .. }
        | I::Ne { .. }
        | I::Not { .. } => Ok(()),
        I::BuiltinCall { .. } | I::FunctionCall { .. } | I::CallRule { .. } | I::Return { .. } => Ok(()),
        I::RuleInit { .. } | I::RuleReturn {} | I::DestructuringSuccess {} | I::Halt {} => Ok(()),
        I::ObjectCreate { .. } | I::Index { .. } | I::IndexLiteral { .. } | I::ChainedIndex { .. } => Ok(()),
        I::ArrayNew { .. } | I::ArrayPush { .. } | I::ArrayCreate { .. } => Ok(()),
        I::SetNew { .. } | I::SetAdd { .. } | I::SetCreate { .. } | I::Contains { .. } | I::Count { .. } => {
            Ok(())
        }
        I::AssertEq { .. } | I::Guard { .. } | I::LoopStart { .. } | I::LoopNext { .. } => Ok(()),
        I::ComprehensionBegin { .. } | I::ComprehensionYield { .. } | I::ComprehensionEnd {} => Ok(()),
        I::VirtualDataDocumentLookup { .. } => {
            Err("a lookup in data by a computed path, or of a whole package, may meet rules: name the rule"
                .to_owned())
        }
        other => Err(format!("the construct {other:?} is not supported")),
    }
}

fn builtin(name: &'static str, (span, exprs, args): Arguments<'_>) -> Result<Value, LimitError> {
    let function = BUILTINS.get(name).ok_or_else(|| error(name))?;
    match (function.0)(span, exprs, args, true) {
        // Arguments are defined here, so an undefined result is an error that the builtin hides.
        Ok(Value::Undefined) | Err(_) => Err(error(name)),
        Ok(value) => Ok(value),
    }
}

fn operator(
    name: &'static str,
    args: Arguments<'_>,
    run: impl FnOnce(Arguments<'_>) -> Option<Value>,
) -> Result<Value, LimitError> {
    run(args).filter(|value| !matches!(value, Value::Undefined)).ok_or_else(|| error(name))
}

fn arithmetic((span, exprs, args): Arguments<'_>, op: &ArithOp) -> Option<Value> {
    let ([left, right], [a, b]) = (exprs, args) else { return None };
    numbers::arithmetic_operation(span, op, left, right, a.clone(), b.clone(), true).ok()
}

/// `-` is also the difference of sets.
fn difference(args: Arguments<'_>) -> Option<Value> {
    match args.2 {
        [Value::Set(a), Value::Set(b)] => Some(Value::from(a.difference(b))),
        _ => arithmetic(args, &ArithOp::Sub),
    }
}

fn order((_, _, args): Arguments<'_>, op: &BoolOp) -> Option<Value> {
    let [a, b] = args else { return None };
    let same_type = std::mem::discriminant(a) == std::mem::discriminant(b);
    if same_type { comparison::compare(op, a, b).ok() } else { None }
}

/// The virtual machine ends an evaluation for errors of this type, and lets a number through.
fn error(name: &'static str) -> LimitError {
    let number = BUILTINS_ALLOWED.iter().chain(OPERATORS).position(|strict| strict.name == name);
    LimitError::RegexSizeLimitExceeded { limit: ERROR_BASE + number.unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_builtin_exists_with_this_arity() {
        for strict in BUILTINS_ALLOWED {
            let real = BUILTINS.get(strict.name).unwrap_or_else(|| panic!("no builtin {}", strict.name));
            assert_eq!(real.1, strict.function.1, "{}", strict.name);
        }
        for forbidden in ["rand.intn", "trace", "numbers.range", "numbers.range_step", "bits.lsh", "bits.rsh"]
        {
            assert!(BUILTINS_ALLOWED.iter().all(|strict| strict.name != forbidden), "{forbidden}");
        }
    }

    #[test]
    fn errors_carry_their_name() {
        for strict in BUILTINS_ALLOWED.iter().chain(OPERATORS) {
            let LimitError::RegexSizeLimitExceeded { limit } = error(strict.name) else { panic!() };
            assert_eq!(failed_in(&VmError::RegexSizeLimitExceeded { limit, pc: 0 }), Some(strict.name));
        }
        assert_eq!(failed_in(&VmError::RegexSizeLimitExceeded { limit: 10 << 20, pc: 0 }), None);
    }
}
