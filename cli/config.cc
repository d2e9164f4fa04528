// SPDX-License-Identifier: Apache-2.0
#include "cli/config.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/failure.h"
#include "cli/format.h"

namespace hearth::cli {
namespace {

using nlohmann::json;

constexpr const char* kFields[] = {
    "runtime",   "handler",        "interface",          "command",     "description",
    "memoryMib", "timeoutSeconds", "initTimeoutSeconds", "environment", "secrets"};

[[noreturn]] void BadField(const std::string& source, const std::string& field,
                           const std::string& wanted, const json& found) {
  throw UsageError(source + ": \"" + field + "\" must be " + wanted + ", not " +
                   found.dump().substr(0, 60));
}

std::string StringField(const std::string& source, const std::string& field, const json& value) {
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
    BadField(source, field, "a string that is not empty", value);
  }
  return value.get<std::string>();
}

int IntField(const std::string& source, const std::string& field, const json& value) {
  if (!value.is_number_integer() || value < -2147483647 || value > 2147483647) {
    BadField(source, field, "a whole number", value);
  }
  return value.get<int>();
}

double SecondsField(const std::string& source, const std::string& field, const json& value) {
  if (!value.is_number()) BadField(source, field, "a number of seconds", value);
  return value.get<double>();
}

std::vector<std::string> CommandField(const std::string& source, const json& value) {
  if (!value.is_array() || value.empty()) {
    BadField(source, "command", "a list of strings, the program first", value);
  }
  std::vector<std::string> command;
  for (const json& part : value) {
    if (!part.is_string()) BadField(source, "command", "a list of strings", part);
    command.push_back(part.get<std::string>());
  }
  return command;
}

std::map<std::string, std::string> EnvironmentField(const std::string& source, const json& value) {
  if (!value.is_object()) BadField(source, "environment", "an object of strings", value);
  std::map<std::string, std::string> environment;
  for (const auto& [name, entry] : value.items()) {
    if (!entry.is_string()) BadField(source, "environment." + name, "a string", entry);
    environment[name] = entry.get<std::string>();
  }
  return environment;
}

std::map<std::string, std::optional<std::string>> SecretsField(const std::string& source,
                                                               const json& value) {
  constexpr char kWanted[] = "a list of names, whose values come from the environment";
  if (!value.is_array()) BadField(source, "secrets", kWanted, value);
  std::map<std::string, std::optional<std::string>> secrets;
  for (const json& name : value) {
    if (!name.is_string()) BadField(source, "secrets", kWanted, name);
    secrets[name.get<std::string>()] = std::nullopt;
  }
  return secrets;
}

// How many letters must change, for "did you mean".
size_t Distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      const bool same = std::tolower(a[i - 1]) == std::tolower(b[j - 1]);
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (same ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

[[noreturn]] void UnknownField(const std::string& source, const std::string& field) {
  std::vector<std::string> advice;
  const auto* best = std::min_element(
      std::begin(kFields), std::end(kFields),
      [&](const char* a, const char* b) { return Distance(field, a) < Distance(field, b); });
  if (Distance(field, *best) <= 3) advice.push_back("Did you mean \"" + std::string(*best) + "\"?");
  std::string known;
  for (const char* name : kFields) known += (known.empty() ? "" : ", ") + std::string(name);
  throw UsageError(source + ": there is no field \"" + field + "\"", advice,
                   {"the fields are " + known});
}

json ParseJson(const std::string& text, const std::string& source) {
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    const size_t at = std::min(error.byte > 0 ? error.byte - 1 : 0, text.size());
    const auto before = text.begin() + static_cast<std::ptrdiff_t>(at);
    const auto line = 1 + std::count(text.begin(), before, '\n');
    const size_t line_start = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;
    std::string what = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    if (const size_t colon = what.find(": "); colon != std::string::npos) what.erase(0, colon + 2);
    const size_t line_end = text.find('\n', line_start);
    throw UsageError(source + ":" + std::to_string(line) + ":" +
                         std::to_string(at - line_start + 1) + ": not valid JSON: " + what,
                     {"Mend that line; `hearth deploy --help` shows a whole file."},
                     {text.substr(line_start, line_end - line_start)});
  }
}

}  // namespace

FunctionConfig ParseConfig(const std::string& text, const std::string& source) {
  const json document = ParseJson(text, source);
  if (!document.is_object()) {
    throw UsageError(source + ": must hold one object, {...}",
                     {"`hearth deploy --help` shows a whole file."});
  }
  FunctionConfig config;
  for (const auto& [field, value] : document.items()) {
    if (field == "runtime") {
      config.runtime = StringField(source, field, value);
    } else if (field == "handler") {
      config.handler = StringField(source, field, value);
    } else if (field == "interface") {
      config.interface = StringField(source, field, value);
    } else if (field == "description") {
      config.description = StringField(source, field, value);
    } else if (field == "command") {
      config.command = CommandField(source, value);
    } else if (field == "memoryMib") {
      config.memory_mib = IntField(source, field, value);
    } else if (field == "timeoutSeconds") {
      config.timeout_seconds = SecondsField(source, field, value);
    } else if (field == "initTimeoutSeconds") {
      config.init_timeout_seconds = SecondsField(source, field, value);
    } else if (field == "environment") {
      config.environment = EnvironmentField(source, value);
    } else if (field == "secrets") {
      config.secrets = SecretsField(source, value);
    } else {
      UnknownField(source, field);
    }
  }
  return config;
}

FunctionConfig ReadConfig(const std::string& directory) {
  const std::filesystem::path path = std::filesystem::path(directory) / kConfigFile;
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return {};
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxConfigBytes + 1, '\0');
  if (!file) throw UsageError("cannot read " + path.string() + ": " + std::strerror(errno));
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxConfigBytes) {
    throw UsageError(path.string() + " is larger than " + FormatBytes(kMaxConfigBytes));
  }
  return ParseConfig(text, path.string());
}

void Override(const FunctionConfig& overrides, FunctionConfig* config) {
  if (overrides.runtime) config->runtime = overrides.runtime;
  if (overrides.handler) config->handler = overrides.handler;
  if (overrides.interface) config->interface = overrides.interface;
  if (overrides.command) config->command = overrides.command;
  if (overrides.description) config->description = overrides.description;
  if (overrides.memory_mib) config->memory_mib = overrides.memory_mib;
  if (overrides.timeout_seconds) config->timeout_seconds = overrides.timeout_seconds;
  if (overrides.init_timeout_seconds) config->init_timeout_seconds = overrides.init_timeout_seconds;
  for (const auto& [name, value] : overrides.environment) config->environment[name] = value;
  for (const auto& [name, value] : overrides.secrets) config->secrets[name] = value;
}

hearth::v1::VersionSpec ToSpec(const FunctionConfig& config, const std::string& source) {
  hearth::v1::VersionSpec spec;
  if (!config.runtime) {
    throw UsageError(source + ": no \"runtime\" is given",
                     {"Add \"runtime\": \"python3.11\", or use --runtime; `hearth list runtimes` "
                      "shows which there are."});
  }
  spec.set_runtime(*config.runtime);
  const std::string interface = config.interface.value_or(config.command ? "stdio" : "runtime-api");
  if (interface == "runtime-api") {
    if (config.command) {
      throw UsageError(source + ": \"command\" belongs to the interface \"stdio\"",
                       {"Set \"interface\": \"stdio\", or leave \"command\" out."});
    }
    spec.mutable_interface()->mutable_runtime_api()->set_handler(config.handler.value_or(""));
  } else if (interface == "stdio") {
    if (!config.command) {
      throw UsageError(source + ": the interface \"stdio\" needs a \"command\"",
                       {"Add \"command\": [\"./program\"]; it is run in the folder you deploy."});
    }
    if (config.handler) {
      throw UsageError(source + ": \"handler\" belongs to the interface \"runtime-api\"",
                       {"Leave it out, or leave \"command\" out."});
    }
    for (const std::string& part : *config.command) {
      spec.mutable_interface()->mutable_stdio()->add_command(part);
    }
  } else {
    throw UsageError(source + ": \"interface\" must be \"runtime-api\" or \"stdio\", not \"" +
                     interface + "\"");
  }
  if (config.memory_mib) {
    // On the wire 0 means the default; somebody who writes 0 does not mean 128.
    if (*config.memory_mib <= 0) {
      throw UsageError(
          source + ": \"memoryMib\" must be more than " + std::to_string(*config.memory_mib),
          {"Choose an even number from 128 to 10240, or leave it out for 128."});
    }
    spec.set_memory_mib(*config.memory_mib);
  }
  const auto set_seconds = [&](const char* field, const std::optional<double>& seconds,
                               auto mutable_duration) {
    if (!seconds) return;
    if (!(*seconds > 0) || *seconds > 1e6) {
      throw UsageError(source + ": \"" + field + "\" must be a number of seconds above 0",
                       {"A time-out is 0.1 to 900 seconds."});
    }
    *mutable_duration() = FromSeconds(*seconds);
  };
  set_seconds("timeoutSeconds", config.timeout_seconds, [&] { return spec.mutable_timeout(); });
  set_seconds("initTimeoutSeconds", config.init_timeout_seconds,
              [&] { return spec.mutable_init_timeout(); });
  spec.mutable_environment()->insert(config.environment.begin(), config.environment.end());
  for (const auto& [name, value] : config.secrets) {
    const char* const given = value ? value->c_str() : std::getenv(name.c_str());
    if (given == nullptr) {
      throw UsageError(source + ": the secret " + name + " is not in the environment",
                       {"Set the variable " + name + " for this command."});
    }
    (*spec.mutable_secrets())[name] = given;
  }
  return spec;
}

}  // namespace hearth::cli
