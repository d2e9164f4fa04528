// SPDX-License-Identifier: Apache-2.0
#include "bench/starts_command.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

std::string GuessContentType(const std::string& file) {
  if (absl::EndsWith(file, ".jpg") || absl::EndsWith(file, ".jpeg")) return "image/jpeg";
  if (absl::EndsWith(file, ".json") || file.empty()) return "application/json";
  if (absl::EndsWith(file, ".txt") || absl::EndsWith(file, ".md")) return "text/plain";
  return "application/octet-stream";
}

absl::StatusOr<BenchedFunction> ParseFunction(const StartsCommand& command,
                                              const std::string& text) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
  BenchedFunction function;
  function.name = parts.first;
  function.call.function = FunctionName(parts.first);
  const std::string& file = parts.second.empty() ? command.payload_file : parts.second;
  if (!file.empty()) {
    ASSIGN_OR_RETURN(function.call.payload, ReadPayload(file));
  }
  function.call.content_type =
      command.content_type.empty() ? GuessContentType(file) : command.content_type;
  return function;
}

}  // namespace

void AddStarts(CLI::App* app, const char* modes, StartsCommand* command) {
  ColdStartOptions& options = command->options;
  command->modes = modes;
  AddSocket(app, &options.socket);
  app->add_option("--function", command->functions,
                  "Its id or name, and a file with its payload: NAME[=FILE]; "
                  "may be repeated")
      ->required()
      ->take_all();
  app->add_option("--payload", command->payload_file,
                  "For functions without a file of their own; else the payload is {}");
  app->add_option("--content-type", command->content_type,
                  "Of all payloads (by the file's name: JPEG, JSON, text, or bytes)");
  app->add_option("--modes", command->modes, "Kinds of start, in this order; '' for none")
      ->capture_default_str();
  app->add_option("--prepare", options.prepare,
                  "Called before each mode with its name (also open-loop, "
                  "clones), how many at "
                  "once, and, if backends are compared, the backend's name");
  app->add_option("--runs", options.runs, "Samples of each (10)")->check(CLI::Range(1, 1000000));
  app->add_option(
         "--warmup", options.warmup,
         "Rounds that are discarded before a function's first restores (5: four still record "
         "what later ones load at once); before the other kinds at most 2")
      ->check(CLI::Range(0, 1000));
}

absl::Status ParseStarts(StartsCommand* command) {
  for (const std::string& text : command->functions) {
    ASSIGN_OR_RETURN(BenchedFunction function, ParseFunction(*command, text));
    command->options.functions.push_back(std::move(function));
  }
  for (const absl::string_view name : absl::StrSplit(command->modes, ',', absl::SkipEmpty())) {
    ASSIGN_OR_RETURN(const Mode mode, ModeOf(name));
    command->options.modes.push_back(mode);
  }
  return absl::OkStatus();
}

}  // namespace hearth::bench
