//! Decisions: the airline's bundle on recorded calls, and 100 rules of which five concern the tool at hand.

use criterion::{Criterion, Throughput};
use sift_benches::AnyError;
use sift_benches::decisions::{self, Interpreter};
use sift_benches::engines::{Cedar, Machine};
use sift_benches::rules::{self, Language};
use sift_rules::{CallInput, PolicyBundle, PolicyInput};
use sift_spec::record::Effect;

pub(crate) fn benches(criterion: &mut Criterion) -> Result<(), AnyError> {
    let mut group = criterion.benchmark_group("decision");
    for language in Language::ALL {
        let bundle = PolicyBundle::compile(&rules::airline(language)?)?;
        let recorded = decisions::airline(&bundle)?;
        let is_tool = |input: &[u8]| {
            let input = PolicyInput::from_bytes(input);
            input.is_ok_and(|input| matches!(input.call, CallInput::Tool { .. }))
        };
        let (tools, all) = (recorded.decisions.iter().filter(|one| is_tool(&one.input)), &recorded.decisions);
        let tools: Vec<_> = tools.cloned().collect();
        println!("{}: {}", language.name(), recorded.source);
        for (what, decisions) in [("all calls", all), ("tool calls", &tools)] {
            let mut decider = bundle.decider();
            assert!(decisions.iter().all(|one| decider.decide(&one.input) == one.verdict));
            group.throughput(Throughput::Elements(decisions.len() as u64));
            group.bench_function(format!("airline, {}, {what}", language.name()), |bencher| {
                bencher.iter(|| {
                    decisions.iter().filter(|one| decider.decide(&one.input) == one.verdict).count()
                });
            });
        }
    }

    let inputs = decisions::hundred()?;
    group.throughput(Throughput::Elements(inputs.len() as u64));
    for language in Language::ALL {
        let bundle = rules::hundred_compiled(language)?;
        for (what, mut decider) in [("", bundle.decider()), (", all run", bundle.decider_unsliced())] {
            assert!(inputs.iter().all(|input| decider.decide(input).effect == Effect::Allow));
            group.bench_function(format!("100 rules{what}, {}", language.name()), |bencher| {
                bencher.iter(|| {
                    inputs.iter().filter(|input| decider.decide(input).effect == Effect::Allow).count()
                });
            });
        }
    }
    let mut interpreter = Interpreter::new(rules::hundred(Language::Rego))?;
    for input in &inputs {
        assert_eq!(interpreter.decide(input)?, [1, 0, 0]);
    }
    group.bench_function("100 rules, regorus's interpreter", |bencher| {
        bencher.iter(|| inputs.iter().map(|input| interpreter.decide(input)).all(|fired| fired.is_ok()));
    });
    let mut machine = Machine::new(rules::hundred(Language::Rego), "{}")?;
    for input in &inputs {
        assert_eq!(machine.decide(input)?, [1, 0, 0]);
    }
    group.bench_function("100 rules, regorus's machine", |bencher| {
        bencher.iter(|| inputs.iter().map(|input| machine.decide(input)).all(|fired| fired.is_ok()));
    });
    let cedar = Cedar::new(&rules::hundred(Language::Cedar))?;
    for input in &inputs {
        assert!(cedar.decide(input)?);
    }
    group.bench_function("100 rules, cedar-policy", |bencher| {
        bencher.iter(|| inputs.iter().map(|input| cedar.decide(input)).all(|allowed| allowed.is_ok()));
    });
    group.bench_function("input of 100 rules: JSON to regorus's values", |bencher| {
        bencher.iter(|| {
            let texts = inputs.iter().filter_map(|input| std::str::from_utf8(input).ok());
            texts.map(regorus::Value::from_json_str).all(|value| value.is_ok())
        });
    });
    group.bench_function("input of 100 rules: parse and print", |bencher| {
        bencher.iter(|| {
            inputs
                .iter()
                .all(|input| PolicyInput::from_bytes(input).is_ok_and(|read| read.to_bytes() == *input))
        });
    });
    group.finish();
    Ok(())
}
