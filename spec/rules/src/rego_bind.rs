//! Makes a binding of what is undefined fail its body.
//!
//! In Rego `limit := data.limits[tool]` fails where there is no such limit. The compiler of regorus 0.14.1 guards the
//! variables of `=`, `some`, loops and parameters, and not those of `:=`: such a body would go on, and an `allow` without
//! another use of the variable would let everything through. So a guard follows each of these moves, as the compiler
//! itself puts it behind those of `=`.

use std::sync::Arc;

use regorus::rvm::Instruction;
use regorus::rvm::instructions::GuardMode;
use regorus::rvm::program::Program;

/// Guards every variable that is bound without a guard. To be called once the program holds only instructions that
/// [`harden`](crate::rego_strict::harden) lets pass: what is moved is then known.
///
/// # Errors
/// When the program becomes too long for its jumps.
pub(crate) fn guard_bindings(program: &mut Program) -> Result<(), String> {
    let unguarded = unguarded(&program.instructions);
    // What was at `pc` is further on by the guards before it.
    let moved = |pc: usize| pc + unguarded.partition_point(|bound| *bound < pc);
    let short = |pc: u16| u16::try_from(moved(pc.into())).map_err(|_| "the policy is too long".to_owned());
    let long = |pc: u32| u32::try_from(moved(pc as usize)).map_err(|_| "the policy is too long".to_owned());

    let mut instructions = Vec::with_capacity(program.instructions.len() + unguarded.len());
    let mut spans = Vec::with_capacity(instructions.capacity());
    for (pc, instruction) in program.instructions.iter().enumerate() {
        let span = program.instruction_spans.get(pc).cloned().flatten();
        instructions.push(match *instruction {
            Instruction::LoopNext { body_start, loop_end } => {
                Instruction::LoopNext { body_start: short(body_start)?, loop_end: short(loop_end)? }
            }
            other => other,
        });
        spans.push(span.clone());
        if let (Instruction::Move { dest, .. }, Ok(_)) = (instruction, unguarded.binary_search(&pc)) {
            instructions.push(Instruction::Guard { register: *dest, mode: GuardMode::NotUndefined });
            spans.push(span);
        }
    }
    program.instructions = instructions;
    program.instruction_spans = spans;

    for start in program.entry_points.values_mut() {
        *start = moved(*start);
    }
    program.main_entry_point = long(program.main_entry_point)?;
    for rule in &mut program.rule_infos {
        for start in Arc::make_mut(&mut rule.definitions).iter_mut().flatten() {
            *start = long(*start)?;
        }
        for start in rule.destructuring_blocks.iter_mut().flatten() {
            *start = long(*start)?;
        }
    }
    for params in &mut program.instruction_data.loop_params {
        (params.body_start, params.loop_end) = (short(params.body_start)?, short(params.loop_end)?);
    }
    for params in &mut program.instruction_data.comprehension_begin_params {
        params.body_start = short(params.body_start)?;
        params.comprehension_end = short(params.comprehension_end)?;
    }
    Ok(())
}

/// Where variables are bound without a guard: moves within a body, except those into the rule's own result.
fn unguarded(instructions: &[Instruction]) -> Vec<usize> {
    let mut result = None;
    let mut found = Vec::new();
    for (pc, instruction) in instructions.iter().enumerate() {
        match *instruction {
            Instruction::RuleInit { result_reg, .. } => result = Some(result_reg),
            Instruction::RuleReturn {} => result = None,
            Instruction::Move { dest, .. } if result.is_some_and(|result| result != dest) => {
                let guarded = matches!(
                    instructions.get(pc + 1),
                    Some(Instruction::Guard { register, mode: GuardMode::NotUndefined }) if *register == dest
                );
                if !guarded {
                    found.push(pc);
                }
            }
            _ => {}
        }
    }
    found
}
