// SPDX-License-Identifier: Apache-2.0
// The subcommands invitro and burst.
#include "bench/outside_commands.h"

#include <signal.h>

#include <iostream>
#include <memory>

#include "bench/burst.h"
#include "bench/invitro.h"

namespace hearth::bench {
namespace {

constexpr char kInvitroHelp[] =
    R"(Serves faas.Executor/Execute as invitro's load generator calls it, without TLS, until SIGINT or SIGTERM:
each call is one invocation of the function with the payload {"runtimeInMilliSec": N, "memoryInMebiBytes": N},
and its answer {"durationInMicroSec": N, "memoryUsageInKb": N} becomes the reply. Prints where it listens.

Example:
  hearth deploy examples/trace-function
  hearth-bench invitro --listen 127.0.0.1:8080 --function trace-function)";

constexpr char kBurstHelp[] =
    R"(Bursts of simultaneous invocations, one burst every so many seconds, as STeLLAR sends them: shorter than
hearthd's --idle-stop they find warm instances, longer ones cold starts. An open loop: a burst starts at its time.

Example:
  hearth deploy examples/trace-function
  hearth-bench burst --function trace-function --size 20 --interval 10 --bursts 30 --json > burst.json)";

int Serve(InvitroOptions options) {
  options.function = FunctionName(options.function);
  // Before any thread exists, so that all have it.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  const auto server = InvitroServer::Start(options);
  if (!server.ok()) return Fail(server.status().message());
  std::cout << "listening on " << (*server)->address() << std::endl;
  int signal_number = 0;
  sigwait(&ends, &signal_number);
  return 0;
}

}  // namespace

void AddInvitro(CLI::App* app, Commands* commands) {
  auto options = std::make_shared<InvitroOptions>();
  CLI::App* invitro =
      app->add_subcommand("invitro", "Let invitro's load generator call a function");
  invitro->footer(kInvitroHelp);
  AddSocket(invitro, &options->socket);
  invitro->add_option("--function", options->function, "Its id or name")->required();
  invitro->add_option("--listen", options->listen,
                      "127.0.0.1:PORT or unix:PATH (127.0.0.1:0, a port of the kernel's choice)");
  commands->push_back({invitro, [options] { return Serve(*options); }});
}

void AddBurst(CLI::App* app, Commands* commands) {
  struct Options {
    BurstOptions burst;
    CallOptions call;
    Output output;
  };
  auto options = std::make_shared<Options>();
  CLI::App* burst = app->add_subcommand("burst", "Bursts of simultaneous invocations");
  burst->footer(kBurstHelp);
  AddSocket(burst, &options->burst.socket);
  AddCall(burst, &options->call);
  burst->add_option("--size", options->burst.size, "Invocations in a burst (10)");
  burst->add_option("--interval", options->burst.interval_s,
                    "Seconds from one burst's start to the next one's (10)");
  burst->add_option("--bursts", options->burst.bursts, "How many (10)");
  AddOutput(burst, &options->output);
  commands->push_back({burst, [options] {
                         BurstOptions& burst = options->burst;
                         const auto call = ReadCall(options->call);
                         if (!call.ok()) return Fail(call.status().message());
                         burst.call = *call;
                         const auto results = RunBursts(burst, ShowProgress);
                         if (!results.ok()) return Fail(results.status().message());
                         return Print(options->output, BurstText(burst, *results),
                                      BurstJson(burst, *results));
                       }});
}

}  // namespace hearth::bench
