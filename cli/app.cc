// SPDX-License-Identifier: Apache-2.0
#include "cli/app.h"

#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/help.h"
#include "cli/json.h"

namespace hearth::cli {
namespace {

constexpr char kSeeHelp[] = "`hearth --help`, or `hearth COMMAND --help`, shows how.";

// What the command line was parsed into; `run` is the command that was chosen.
struct Parsed {
  GlobalOptions global;
  DeployOptions deploy;
  InvokeOptions invoke;
  LogsOptions logs;
  ListOptions list;
  std::string describe;
  DeleteOptions remove;
  SnapshotOptions snapshots;
  UsageOptions usage;
  DoctorOptions doctor;
  std::vector<std::string> environment;
  std::vector<std::string> secrets;
  std::string command;
  std::function<int(Session&)> run;
};

CLI::App* Command(CLI::App& app, const char* name, const char* description, const char* footer,
                  Parsed* parsed, std::function<int(Session&)> run) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer(footer);
  command->callback([parsed, run = std::move(run)] { parsed->run = run; });
  return command;
}

void AddDeploy(CLI::App& app, Parsed* parsed) {
  DeployOptions* options = &parsed->deploy;
  FunctionConfig* config = &options->overrides;
  CLI::App* command = Command(app, "deploy", "Make a new version of a function from a folder",
                              kDeployHelp, parsed, [=](Session& session) {
                                for (const std::string& entry : parsed->environment) {
                                  const size_t equals = entry.find('=');
                                  if (equals == std::string::npos || equals == 0) {
                                    throw UsageError("--env takes NAME=VALUE, not '" + entry + "'");
                                  }
                                  config->environment[entry.substr(0, equals)] =
                                      entry.substr(equals + 1);
                                }
                                for (const std::string& entry : parsed->secrets) {
                                  const size_t equals = entry.find('=');
                                  auto& secret = config->secrets[entry.substr(0, equals)];
                                  if (equals != std::string::npos)
                                    secret = entry.substr(equals + 1);
                                }
                                if (!parsed->command.empty())
                                  config->command = {"/bin/sh", "-c", parsed->command};
                                return Deploy(session, *options);
                              });
  command->add_option("DIR", options->directory, "The folder with the code and hearth.json")
      ->required();
  command->add_option("--name", options->name, "The function's name (the folder's)");
  command->add_option("--runtime", config->runtime, "As \"runtime\" in hearth.json");
  command->add_option("--handler", config->handler, "As \"handler\"");
  command->add_option("--memory", config->memory_mib, "As \"memoryMib\"");
  command->add_option("--timeout", config->timeout_seconds, "As \"timeoutSeconds\"");
  command->add_option("--init-timeout", config->init_timeout_seconds, "As \"initTimeoutSeconds\"");
  command->add_option("--interface", config->interface, "As \"interface\": runtime-api or stdio");
  command->add_option("--command", parsed->command, "A shell command, instead of \"command\"");
  command->add_option("--env", parsed->environment, "NAME=VALUE, as in \"environment\"; repeat it")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--secret", parsed->secrets,
                   "NAME, with its value in the environment, or NAME=VALUE; repeat it")
      ->expected(1)
      ->take_all();
  command->add_flag("--keep-live", options->keep_live, "Leave the alias `live` where it is");
}

void AddInvoke(CLI::App& app, Parsed* parsed) {
  InvokeOptions* options = &parsed->invoke;
  CLI::App* command = Command(app, "invoke", "Run a function once", kInvokeHelp, parsed,
                              [=](Session& session) { return Invoke(session, *options); });
  command->add_option("NAME", options->name, "The function; NAME:3 a version, NAME:live an alias")
      ->required();
  auto* file = command->add_option("--payload", options->payload_file, "A file, or - for stdin");
  command->add_option("--data", options->data, "The payload itself")->excludes(file);
  command->add_option("--content-type", options->content_type, "Of the payload (guessed)");
  command->add_option("--output", options->output_file, "A file for the result (stdout)");
  command->add_option("--idempotency-key", options->idempotency_key,
                      "The same key again is the same invocation");
  command->add_option("--client-context", options->client_context, "Handed to the function");
  command->add_flag("-v,--verbose", options->verbose, "Tell where the time went");
}

void AddReading(CLI::App& app, Parsed* parsed) {
  CLI::App* logs = Command(app, "logs", "Show what a function printed", kLogsHelp, parsed,
                           [=](Session& session) { return Logs(session, parsed->logs); });
  logs->add_option("NAME", parsed->logs.name, "The function; its versions share a log")->required();
  logs->add_flag("-f,--follow", parsed->logs.follow, "Go on until interrupted");
  logs->add_option("--tail", parsed->logs.tail, "Begin with the last N lines (all)")
      ->check(CLI::Range(1, 1'000'000));
  logs->add_option("--invocation", parsed->logs.invocation, "Only this one's lines");

  CLI::App* list = Command(app, "list", "Show what there is", kListHelp, parsed,
                           [=](Session& session) { return List(session, parsed->list); });
  list->add_option("WHAT", parsed->list.what,
                   "functions, versions, instances, invocations or runtimes (functions)")
      ->check(CLI::IsMember({"functions", "versions", "instances", "invocations", "runtimes"}));
  list->add_option("NAME", parsed->list.name, "Only those of this function");
  list->add_option("--limit", parsed->list.limit, "At most so many (100)")
      ->check(CLI::Range(1, 1'000'000));

  CLI::App* describe =
      Command(app, "describe", "Show a function and its live version", kDescribeHelp, parsed,
              [=](Session& session) { return Describe(session, parsed->describe); });
  describe->add_option("NAME", parsed->describe, "The function; NAME:3 a version")->required();

  CLI::App* usage = Command(app, "usage", "Show what ran and what it costs", kUsageHelp, parsed,
                            [=](Session& session) { return ShowUsage(session, parsed->usage); });
  usage->add_option("NAME", parsed->usage.name, "Only this function's");
  usage->add_option("--since-hours", parsed->usage.since_hours, "Only of the last H hours (all)")
      ->check(CLI::PositiveNumber);
}

void AddSnapshots(CLI::App& app, Parsed* parsed) {
  SnapshotOptions* options = &parsed->snapshots;
  CLI::App* snapshots = app.add_subcommand("snapshots", "What instances are restored from");
  snapshots->footer(kSnapshotsHelp);
  snapshots->require_subcommand(1);
  snapshots->fallthrough();
  CLI::App* list = Command(*snapshots, "list", "Show them", kSnapshotsHelp, parsed,
                           [=](Session& session) { return ListSnapshots(session, *options); });
  list->add_option("NAME", options->name, "Only those of this function; NAME:3 a version");
  list->add_option("--limit", options->limit, "At most so many (100)")
      ->check(CLI::Range(1, 1'000'000));
  const auto add = [&](const char* name, const char* description,
                       int (*run)(Session&, const SnapshotOptions&)) {
    CLI::App* command = Command(*snapshots, name, description, kSnapshotsHelp, parsed,
                                [=](Session& session) { return run(session, *options); });
    command->add_option("NAME", options->name, "The function; NAME:3 a version; or a whole name")
        ->required();
    return command;
  };
  add("describe", "Show one", DescribeSnapshot);
  add("rebuild", "Make a new one; the old one serves until then", RebuildSnapshot);
  add("delete", "Delete one; the next instance boots", DeleteSnapshot)
      ->add_flag("-y,--yes", options->yes, "Do not ask");

  CLI::App* images = app.add_subcommand("images", "What new machines are made from");
  images->footer(kImagesHelp);
  images->require_subcommand(1);
  images->fallthrough();
  Command(*images, "list", "Show them", kImagesHelp, parsed, ListImages);
  Command(*images, "outdated", "Show what still runs on older ones", kImagesHelp, parsed,
          ListOutdated);
  Command(*images, "reload", "Have hearthd read its image store again", kImagesHelp, parsed,
          ReloadImages);
}

void AddOthers(CLI::App& app, Parsed* parsed) {
  CLI::App* remove =
      Command(app, "delete", "Delete a function, or one version of it", kDeleteHelp, parsed,
              [=](Session& session) { return Delete(session, parsed->remove); });
  remove->add_option("NAME", parsed->remove.name, "The function; NAME:3 a version")->required();
  remove->add_flag("-y,--yes", parsed->remove.yes, "Do not ask");

  CLI::App* doctor =
      Command(app, "doctor", "Find out by measuring what runs microVMs here", kDoctorHelp, parsed,
              [=](Session& session) { return Doctor(session, parsed->doctor); });
  doctor->add_option("--backend", parsed->doctor.backend, "Judge only this one: kvm or libvirt")
      ->check(CLI::IsMember({"kvm", "libvirt"}));
  doctor->add_option("--data", parsed->doctor.folder,
                     "Where hearthd keeps its data, for disk space");
  doctor->add_option("--device", parsed->doctor.device, "The KVM device (/dev/kvm)");
  doctor->add_option("--probe", parsed->doctor.probe, "hearth-kvm-probe, if not beside hearth");
  doctor->add_option("--libvirt", parsed->doctor.libvirt, "hearth-libvirt, if not beside hearth");
  doctor
      ->add_option("--baseline", parsed->doctor.baseline,
                   "Instead: which hosts share snapshots, each FILE being a host's `doctor --json`")
      ->type_name("FILE...");
}

void Build(CLI::App& app, Parsed* parsed) {
  app.footer(kHelp);
  app.require_subcommand(1);
  // Global options may stand behind the command, where people write them.
  app.fallthrough();
  app.add_option("--socket", parsed->global.socket, "hearthd's socket")->envname("HEARTH_SOCKET");
  app.add_option("--tenant", parsed->global.tenant, "Whose functions (default)")
      ->envname("HEARTH_TENANT");
  app.add_flag("--json", parsed->global.json, "Print one JSON document, for machines");
  app.add_flag("-q,--quiet", parsed->global.quiet, "No progress and no remarks");
  app.set_version_flag("--version", "hearth 0.1.0");
  AddDeploy(app, parsed);
  AddInvoke(app, parsed);
  AddReading(app, parsed);
  AddSnapshots(app, parsed);
  AddOthers(app, parsed);
}

// `hearth list | head`: a reader that has gone wants nothing more, which is no failure.
bool ReaderLeft() {
  pollfd out{STDOUT_FILENO, POLLOUT, 0};
  return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

}  // namespace

int RunApp(std::vector<std::string> arguments, const Terminal& terminal, Interrupt* interrupt) {
  // Known before the command line is understood, so that its mistakes are told the right way too.
  const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
  const auto fail = [&](const Failure& failure) {
    if (json) {
      terminal.out << JsonText(RenderJson(failure));
    } else {
      terminal.err << RenderText(failure, terminal.err_is_tty);
    }
    return failure.exit_code;
  };
  CLI::App app("Runs functions in microVMs of their own: the command line of hearthd.", "hearth");
  Parsed parsed;
  try {
    Build(app, &parsed);
    std::reverse(arguments.begin(), arguments.end());  // As CLI11 takes a vector.
    app.parse(arguments);
    Session session(parsed.global, terminal, interrupt);
    const int code = parsed.run(session);
    if (!terminal.out.flush() && code == kExitOk && !ReaderLeft()) {
      throw LocalError("cannot write to stdout");
    }
    return code;
  } catch (const CLI::Success& success) {
    return app.exit(success, terminal.out, terminal.err);
  } catch (const CLI::RequiredError& error) {
    // CLI11 says only that a command is missing when one is misspelt.
    const std::vector<std::string> rest = app.remaining();
    if (!app.get_subcommands().empty() || rest.empty()) {
      return fail(UsageError(error.what(), {kSeeHelp}).failure());
    }
    return fail(UsageError("there is no command '" + rest.front() + "'", {kSeeHelp}).failure());
  } catch (const CLI::ParseError& error) {
    return fail(UsageError(error.what(), {kSeeHelp}).failure());
  } catch (const CliError& error) {
    return fail(error.failure());
  } catch (const std::exception& error) {
    return fail(LocalError(error.what()).failure());
  }
}

}  // namespace hearth::cli
