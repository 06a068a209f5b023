package dev.adabet.sample;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** The parsed command line. */
final class Arguments {
  private static final Set<String> MANY = Set.of("x", "held-x", "out");
  private static final Set<String> ONE = Set.of("y", "held-y", "entry", "progress", "delta", "selected", "from",
      "memory", "stop", "raw", "rate", "batch", "epochs", "seed", "threads");

  final String folder;
  final String command;
  private final Map<String, List<String>> options = new HashMap<>();

  Arguments(String[] given) {
    if (given.length < 2) throw Main.usage("expected PACKAGE show|score|fit|predict|save [OPTIONS]");
    folder = given[0];
    command = given[1];
    for (int i = 2; i < given.length; i += 2) {
      String name = given[i].startsWith("--") ? given[i].substring(2) : "";
      if (!MANY.contains(name) && !ONE.contains(name)) throw Main.usage(given[i] + " is not an option");
      if (i + 1 == given.length) throw Main.usage(given[i] + " needs a value");
      List<String> values = options.computeIfAbsent(name, key -> new ArrayList<>());
      if (!values.isEmpty() && ONE.contains(name)) throw Main.usage(given[i] + " is given twice");
      values.add(given[i + 1]);
    }
  }

  List<String> all(String name) {
    return options.getOrDefault(name, List.of());
  }

  String optional(String name) {
    return all(name).isEmpty() ? null : all(name).get(0);
  }

  String one(String name) {
    if (all(name).isEmpty()) throw Main.usage("--" + name + " is missing");
    return all(name).get(0);
  }

  Double number(String name) {
    try {
      return optional(name) == null ? null : Double.valueOf(optional(name));
    } catch (NumberFormatException error) {
      throw Main.usage("--" + name + " takes a number");
    }
  }

  Long whole(String name, Number otherwise, long most) {
    if (optional(name) == null) return otherwise == null ? null : (Long) otherwise.longValue();
    try {
      long number = Long.parseLong(optional(name));
      if (number >= 0 && number <= most) return number;
    } catch (NumberFormatException error) {
      // reported below
    }
    throw Main.usage("--" + name + " takes a whole number of at most " + most);
  }
}
