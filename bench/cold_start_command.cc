// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/cold_start.h"
#include "bench/starts_command.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

constexpr char kHelp[] =
    R"(From the client's sending to the last byte of the reply, for each way in which an instance may start:
  cold-boot  no snapshot: a machine boots, the function initialises
  cold-disk  restored; the snapshot is read from a disk whose cache was dropped (--evict)
  store      restored; the snapshot is read from the store
  resident   restored; the snapshot's memory is resident; a new VMM process
  waiting    restored; the memory is resident, and a VMM process waits
  restored   restored in any of these ways
  warm       an instance that has served
What hearthd says of each start is held against the mode; another kind of start is a failure, which is
counted and is in no figure. Starts of a kind want a hearthd that makes them: --prepare names a program
that restarts it; without one, give only the modes that fit its flags. Before each start the benchmark
waits until hearthd has ended the function's instances, so --idle-stop is to be short. As root it also
tells page faults, KVM exits and the clones' memory, from /proc and debugfs.

bench/run-cold-start does all of it, with instructions counted.

Examples:
  hearthd --idle-stop 1 --waiting-vmms 1 ... &
  hearth deploy examples/wordfreq
  hearth-bench cold-start --function wordfreq=README.md --modes waiting,warm --runs 1000
  hearth-bench cold-start --function wordfreq --modes waiting --concurrency 16   (--waiting-vmms 16)
  hearth-bench cold-start --function wordfreq --modes '' --rate 50 --duration 60  all starts as they come
  hearth-bench cold-start --function wordfreq --modes '' --clones 100             (--idle-stop 300)
  hearth-bench cold-start --function wordfreq --modes cold-disk --evict /var/lib/hearth/snapshots)";

struct ColdStartCommand {
  StartsCommand starts;
  std::vector<std::string> targets;
  std::string waterfall_file;
  Output output;
  bool check = false;
};

absl::Status AddTargets(const std::vector<std::string>& targets, ColdStartOptions* options) {
  for (const std::string& text : targets) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    double limit = 0;
    bool known = false;
    for (BenchedFunction& function : options->functions) {
      if (function.name != parts.first) continue;
      known = absl::SimpleAtod(parts.second, &limit);
      function.target = limit;
    }
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("--target ", text, ": FUNCTION=NUMBER, of a function that is measured"));
    }
  }
  return absl::OkStatus();
}

absl::Status Parse(ColdStartCommand* command) {
  RETURN_IF_ERROR(ParseStarts(&command->starts));
  ColdStartOptions& options = command->starts.options;
  if (options.modes.empty() && options.open_loop.rate == 0 && options.clones == 0) {
    return absl::InvalidArgumentError("nothing to do: give --modes, --rate or --clones");
  }
  if (options.open_loop.rate * options.open_loop.seconds > kMaxArrivals) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rate times --duration is above ", kMaxArrivals, " requests"));
  }
  return AddTargets(command->targets, &options);
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError("cannot write " + path);
}

int Run(ColdStartCommand* command) {
  if (const absl::Status parsed = Parse(command); !parsed.ok()) return Fail(parsed.message());
  const ColdStartOptions& options = command->starts.options;
  const auto results = RunColdStart(options, ShowProgress);
  if (!results.ok()) return Fail(results.status().message());
  const int printed =
      Print(command->output, ColdStartText(options, *results), ColdStartJson(options, *results));
  if (!command->waterfall_file.empty()) {
    const absl::Status drawn = WriteFile(command->waterfall_file, ColdStartSvg(*results));
    if (!drawn.ok()) return Fail(drawn.message());
  }
  if (command->check && !MeetsTargets(options, *results)) return kExitMissed;
  return printed;
}

void AddLoad(CLI::App* cold, ColdStartOptions* options) {
  cold->add_option("--concurrency", options->concurrency,
                   "Closed loop: invocations at once (1); above 1 not where "
                   "instructions are counted")
      ->check(CLI::Range(1, kMaxConcurrency));
  cold->add_option("--rate", options->open_loop.rate,
                   "Open loop as well: requests a second, whatever became of "
                   "those before; the "
                   "latency counts from when each was due")
      ->check(CLI::Range(0.001, 100000.0));
  cold->add_option("--duration", options->open_loop.seconds, "Of the open loop, in seconds (10)")
      ->check(CLI::Range(0.1, 86400.0));
  cold->add_option("--arrivals", options->open_loop.arrivals, "poisson (the default) or fixed")
      ->transform(CLI::CheckedTransformer(std::map<std::string, ArrivalKind>{
          {"poisson", ArrivalKind::kPoisson}, {"fixed", ArrivalKind::kFixed}}));
  cold->add_option("--seed", options->open_loop.seed, "Of the Poisson arrivals (1)");
  cold->add_option("--clones", options->clones,
                   "So many instances alive at once, each having answered: "
                   "what memory one takes")
      ->check(CLI::Range(1, kMaxClones));
}

void AddOthers(CLI::App* cold, ColdStartOptions* options) {
  cold->add_option("--evict", options->evict,
                   "For cold-disk: a folder to drop from the page cache, as "
                   "the snapshots' and the "
                   "images'; may be repeated")
      ->take_all();
  cold->add_option("--peer-kernel", options->peer.kernel,
                   "A Linux (vmlinux): QEMU's microvm is measured too, restoring it");
  cold->add_option("--peer-initrd", options->peer.initrd, "Its init writes \"tick\" without end");
  options->peer.machine.qemu = "qemu-system-x86_64";
}

}  // namespace

void AddColdStart(CLI::App* app, Commands* commands) {
  auto command = std::make_shared<ColdStartCommand>();
  CLI::App* cold = app->add_subcommand("cold-start", "A function's starts, each kind for itself");
  cold->footer(kHelp);
  // A script's own options come first, its caller's behind them.
  cold->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  AddStarts(cold, "cold-boot,store,resident,waiting,warm", &command->starts);
  AddOthers(cold, &command->starts.options);
  AddLoad(cold, &command->starts.options);
  cold->add_option(
          "--target", command->targets,
          "FUNCTION=NUMBER: what a restore into a waiting VMM may take above a warm one; may "
          "be repeated")
      ->take_all();
  cold->add_option("--waterfall", command->waterfall_file,
                   "Write a picture of where the time goes to a file (SVG)");
  AddOutput(cold, &command->output);
  cold->add_flag("--check", command->check, "Exit with 3 when a target is missed");
  commands->push_back({cold, [command] { return Run(command.get()); }});
}

}  // namespace hearth::bench
