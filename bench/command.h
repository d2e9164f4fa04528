// SPDX-License-Identifier: Apache-2.0
// A subcommand of hearth-bench, and what all of them share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/boot.h"
#include "bench/call.h"

namespace hearth::bench {

// What --check answers when a target is missed.
inline constexpr int kExitMissed = 3;

// One entry for each subcommand: main() runs the one that was given, and exits with its result.
struct Command {
  CLI::App* app;
  std::function<int()> run;
};
using Commands = std::vector<Command>;

struct Output {
  bool json = false;
  std::string samples_file;
};

void AddOutput(CLI::App* command, Output* output);
void AddMachine(CLI::App* command, BootOptions* options);
void AddSocket(CLI::App* command, std::string* socket);

// On a terminal only.
void ShowProgress(const std::string& what);
// Says why, and is the exit code.
int Fail(absl::string_view message);
// Prints the table or the JSON, writes the samples' file; the exit code.
int Print(const Output& output, const std::string& text, const nlohmann::json& json);

// The one invocation that a subcommand makes again and again: --function, --payload,
// --content-type.
struct CallOptions {
  Call call;
  std::string payload_file;
};
void AddCall(CLI::App* command, CallOptions* options);
// With the function's whole name and the payload. NOT_FOUND when that cannot be read.
absl::StatusOr<Call> ReadCall(const CallOptions& options);

// "wordfreq" is tenants/default/functions/wordfreq.
std::string FunctionName(const std::string& name_or_id);
absl::StatusOr<std::string> ReadPayload(const std::string& file);

// Each adds one subcommand.
void AddBoot(CLI::App* app, Commands* commands);
void AddRestore(CLI::App* app, Commands* commands);
void AddInvoke(CLI::App* app, Commands* commands);
void AddColdStart(CLI::App* app, Commands* commands);
void AddBackends(CLI::App* app, Commands* commands);

}  // namespace hearth::bench
