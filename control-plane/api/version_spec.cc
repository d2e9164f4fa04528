// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/version_spec.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "control-plane/api/errors.h"
#include "control-plane/api/fields.h"
#include "control-plane/api/names.h"
#include "control-plane/limits.h"

namespace hearth::control {
namespace {

using hearth::v1::FunctionInterface;
using hearth::v1::VersionSpec;

void CheckMemory(const VersionSpec& spec, uint64_t capacity_mib, FieldViolations* violations) {
  const int32_t memory = spec.memory_mib();
  if (memory == 0) return;
  const char* field = "version.spec.memory_mib";
  if (memory < static_cast<int32_t>(limits::kMinMemoryMib) ||
      memory > static_cast<int32_t>(limits::kMaxMemoryMib)) {
    violations->Add(field,
                    absl::StrCat(memory, " is not between ", limits::kMinMemoryMib, " and ",
                                 limits::kMaxMemoryMib, "; 0 means ", limits::kDefaultMemoryMib));
  } else if (memory % 2 != 0) {
    violations->Add(field, absl::StrCat(memory, " is odd; try ", memory + 1));
  } else if (static_cast<uint64_t>(memory) > capacity_mib) {
    violations->Add(field, absl::StrCat(memory, " is more than the ", capacity_mib,
                                        " that this host has for instances; ask for less, or ",
                                        "start hearthd with a larger --memory-mib"));
  }
}

void CheckDuration(const google::protobuf::Duration& duration, absl::Duration least,
                   absl::Duration most, absl::string_view field, FieldViolations* violations) {
  // A Duration's own limits first, so that nothing below overflows.
  const bool sane = duration.seconds() >= 0 && duration.seconds() <= 315'576'000'000 &&
                    duration.nanos() >= 0 && duration.nanos() < 1'000'000'000;
  if (sane && FromDuration(duration) >= least && FromDuration(duration) <= most) return;
  violations->Add(field, absl::StrCat("must be between ", absl::FormatDuration(least), " and ",
                                      absl::FormatDuration(most)));
}

// The bytes that they take.
size_t CheckVariables(const google::protobuf::Map<std::string, std::string>& variables,
                      absl::string_view map, FieldViolations* violations) {
  size_t bytes = 0;
  for (const auto& [key, value] : variables) {
    const std::string field = absl::StrCat("version.spec.", map, "['", key.substr(0, 64), "']");
    bytes += key.size() + value.size() + 2;  // As "key=value" and its end.
    const bool named = !key.empty() && !absl::ascii_isdigit(key[0]) &&
                       std::all_of(key.begin(), key.end(),
                                   [](char c) { return absl::ascii_isalnum(c) || c == '_'; });
    if (!named) violations->Add(field, "a variable's name must match [A-Za-z_][A-Za-z0-9_]*");
    if (absl::StartsWith(key, "AWS_LAMBDA_") || absl::StartsWith(key, "LAMBDA_") ||
        absl::StartsWith(key, "_HANDLER") || key == "HEARTH_INSTANCE_ID") {
      violations->Add(field, "is set by Hearth; choose another name");
    }
    if (absl::StrContains(value, absl::string_view("\0", 1))) {
      violations->Add(field, "must not hold a zero byte");
    }
  }
  return bytes;
}

void CheckEnvironment(const VersionSpec& spec, FieldViolations* violations) {
  const size_t bytes = CheckVariables(spec.environment(), "environment", violations) +
                       CheckVariables(spec.secrets(), "secrets", violations);
  for (const auto& [key, value] : spec.secrets()) {
    if (spec.environment().count(key) == 0) continue;
    violations->Add(absl::StrCat("version.spec.secrets['", key.substr(0, 64), "']"),
                    "is in `environment` too, which is no place for a secret");
  }
  if (bytes > limits::kMaxEnvironmentBytes) {
    violations->Add("version.spec.environment",
                    absl::StrCat("has ", bytes, " bytes in all, secrets included; at most ",
                                 limits::kMaxEnvironmentBytes, " are allowed"));
  }
}

void CheckCommand(const hearth::v1::StdioInterface& stdio, FieldViolations* violations) {
  const char* field = "version.spec.interface.stdio.command";
  size_t bytes = 0;
  for (const std::string& argument : stdio.command()) {
    bytes += argument.size() + 1;
    if (absl::StrContains(argument, absl::string_view("\0", 1))) {
      violations->Add(field, "must not hold a zero byte");
    }
  }
  if (stdio.command().empty() || stdio.command(0).empty()) {
    violations->Add(field, "must name the program, as seen from /var/task");
  }
  if (stdio.command_size() > limits::kMaxCommandArguments || bytes > limits::kMaxCommandBytes) {
    violations->Add(field, absl::StrCat("at most ", limits::kMaxCommandArguments, " arguments of ",
                                        limits::kMaxCommandBytes, " bytes in all"));
  }
}

absl::Status CheckInterface(const FunctionInterface& interface, const RuntimeEntry& runtime,
                            FieldViolations* violations) {
  const auto& served = runtime.resource.interfaces();
  const auto serves = [&](const char* name) {
    return std::find(served.begin(), served.end(), name) != served.end();
  };
  switch (interface.kind_case()) {
    case FunctionInterface::kHttp:
      return ApiError(absl::StatusCode::kUnimplemented, "INTERFACE_NOT_SERVED",
                      "no runtime serves the HTTP interface yet; use runtime_api or stdio",
                      {{"interface", "http"}});
    case FunctionInterface::kRuntimeApi: {
      const std::string& handler = interface.runtime_api().handler();
      const char* field = "version.spec.interface.runtime_api.handler";
      if (!serves("runtime_api")) {
        violations->Add("version.spec.interface",
                        absl::StrCat(runtime.description.name, " does not serve runtime_api"));
      }
      if (handler.empty() && runtime.resource.handler_required()) {
        violations->Add(
            field, absl::StrCat(runtime.description.name, " needs a handler, \"module.function\""));
      }
      if (handler.size() > limits::kMaxHandlerBytes ||
          absl::StrContains(handler, absl::string_view("\0", 1))) {
        violations->Add(
            field, absl::StrCat("at most ", limits::kMaxHandlerBytes, " bytes, none of them zero"));
      }
      break;
    }
    case FunctionInterface::kStdio:
      if (!serves("stdio")) {
        violations->Add("version.spec.interface",
                        absl::StrCat(runtime.description.name, " does not serve stdio"));
      }
      CheckCommand(interface.stdio(), violations);
      break;
    case FunctionInterface::KIND_NOT_SET:
      violations->Add("version.spec.interface", "is required: runtime_api or stdio");
      break;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckVersionSpec(const VersionSpec& spec, const ImageStore& images,
                              uint64_t capacity_mib) {
  FieldViolations violations;
  const auto runtime = images.FindRuntime(spec.runtime());
  if (runtime == nullptr) {
    std::vector<std::string> names;
    const auto set = images.current();
    for (const auto& [name, entry] : set->runtimes) names.push_back(name);
    violations.Add("version.spec.runtime",
                   absl::StrCat("there is no runtime '", spec.runtime().substr(0, 64),
                                "'; there is ", absl::StrJoin(names, ", ")));
  } else {
    violations.Add(CheckInterface(spec.interface(), *runtime, &violations));
  }
  violations.Add(ParseName(kArtifactPattern, spec.artifact(), "version.spec.artifact").status());
  CheckMemory(spec, capacity_mib, &violations);
  if (spec.has_timeout()) {
    CheckDuration(spec.timeout(), limits::kMinTimeout, limits::kMaxTimeout, "version.spec.timeout",
                  &violations);
  }
  if (spec.has_init_timeout()) {
    CheckDuration(spec.init_timeout(), limits::kMinTimeout, limits::kMaxTimeout,
                  "version.spec.init_timeout", &violations);
  }
  CheckEnvironment(spec, &violations);
  return violations.ToStatus();
}

}  // namespace hearth::control
