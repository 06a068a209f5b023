package dev.adabet.sample;

import static java.nio.file.StandardOpenOption.CREATE;
import static java.nio.file.StandardOpenOption.TRUNCATE_EXISTING;
import static java.nio.file.StandardOpenOption.WRITE;

import dev.adabet.onnx.Choice;
import dev.adabet.onnx.DType;
import dev.adabet.onnx.Description;
import dev.adabet.onnx.DeviceException;
import dev.adabet.onnx.DevicePackage;
import dev.adabet.onnx.Entry;
import dev.adabet.onnx.FitEvent;
import dev.adabet.onnx.FitOptions;
import dev.adabet.onnx.Output;
import dev.adabet.onnx.OutputPort;
import dev.adabet.onnx.PersonalModel;
import dev.adabet.onnx.Port;
import dev.adabet.onnx.Preprocess;
import dev.adabet.onnx.Problem;
import dev.adabet.onnx.Samples;
import dev.adabet.onnx.Scores;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The library as a command line program, with raw little-endian files as data.
 *
 * <pre>
 * PACKAGE show
 * PACKAGE score   --x FILE [--memory BYTES] [--batch N]       scores the layers and chooses an entry
 * PACKAGE fit     --x FILE --y FILE [--entry NAME] [--rate R] [--batch N] [--epochs N] [--seed N] [--progress FILE]
 *                 [--held-x FILE --held-y FILE] [--delta FILE] [--selected FILE] [--stop STEP]
 * PACKAGE predict --x FILE --out FILE [--from FILE]           with a delta or progress file, or initial values
 * PACKAGE save    --from FILE [--delta FILE] [--selected FILE]
 * </pre>
 *
 * With --raw yes, the numbers of --x and --held-x are preprocessed as the package defines. For a model with several
 * inputs, give --x (and --held-x) once for each; for several outputs, --out. --threads N sets the threads of ONNX
 * Runtime. fit prints the loss of each step, and a line for each epoch. The exit status is 0, or 1 after an error
 * message.
 */
public final class Main {
  private static final String USAGE = "PACKAGE show|score|fit|predict|save [OPTIONS]";

  private final DevicePackage device;
  private final Arguments arguments;

  private Main(DevicePackage device, Arguments arguments) {
    this.device = device;
    this.arguments = arguments;
  }

  /** Runs one command. */
  public static void main(String[] given) {
    System.exit(run(given));
  }

  /** Runs one command; returns the exit status. */
  public static int run(String... given) {
    try {
      Arguments arguments = new Arguments(given);
      int threads = arguments.whole("threads", 1, 64).intValue();
      try (DevicePackage device = DevicePackage.open(new File(arguments.folder), threads)) {
        new Main(device, arguments).command();
      }
      return 0;
    } catch (DeviceException error) {
      System.err.println(error.getProblem().getLabel() + ": " + error.getMessage());
    } catch (IOException error) {
      System.err.println("usage: " + error);
    } catch (OutOfMemoryError error) {
      System.err.println("no memory: " + error.getMessage());
    }
    return 1;
  }

  private void command() throws IOException {
    switch (arguments.command) {
      case "show" -> show();
      case "score" -> score();
      case "fit" -> fit();
      case "predict" -> predict();
      case "save" -> saveTo(model(arguments.one("from")));
      default -> throw usage(arguments.command + " is not a command; expected " + USAGE);
    }
  }

  private void show() {
    Description about = device.getDescription();
    System.out.println("model " + about.getModel());
    System.out.println("onnxruntime " + device.getRuntimeVersion());
    about.getInputs().forEach(port -> show("input", port));
    for (OutputPort port : about.getOutputs()) show("output", port.getName(), port.getDtype(), port.getShape());
    show("labels", about.getLabels().getPort());
    for (Entry entry : about.getEntries()) {
      System.out.printf("entry %s: %d layers, %d numbers, %d bytes to send, %d bytes of memory at a batch size of 8%n",
          entry.getName(), entry.getLayers().size(), entry.getTrained(), entry.getSelectedBytes(), entry.memoryAt(8));
      entry.getLayers().forEach(layer -> System.out.println("  " + layer));
    }
  }

  private static void show(String what, Port port) {
    List<String> shape = new ArrayList<>(List.of("N"));
    port.getShape().forEach(extent -> shape.add(extent.toString()));
    show(what, port.getName(), port.getDtype(), shape);
  }

  private static void show(String what, String name, DType dtype, List<String> shape) {
    System.out.printf("%s %s %s [%s]%n", what, name, dtype.getLabel(), String.join(", ", shape));
  }

  private void score() throws IOException {
    Scores scores = device.score(samples("x", null));
    scores.getLayers().forEach((layer, score) -> System.out.println(score + " " + layer));
    Long batch = arguments.whole("batch", null, 1 << 21);
    Long memory = arguments.whole("memory", null, Long.MAX_VALUE);
    Choice choice = device.choose(scores, memory, batch == null ? null : batch.intValue());
    System.out.println("choice " + choice.getEntry().getName());
  }

  private void fit() throws IOException {
    FitOptions options = new FitOptions();
    options.setEntry(arguments.optional("entry"));
    options.setLearningRate(arguments.number("rate"));
    Long batch = arguments.whole("batch", null, 1 << 21);
    Long epochs = arguments.whole("epochs", null, Integer.MAX_VALUE);
    options.setBatchSize(batch == null ? null : batch.intValue());
    options.setEpochs(epochs == null ? null : epochs.intValue());
    options.setSeed(arguments.whole("seed", null, 0xFFFFFFFFL));
    options.setProgress(arguments.optional("progress") == null ? null : new File(arguments.one("progress")));
    if (arguments.optional("held-x") != null) options.setHeldOut(samples("held-x", "held-y"));
    long stop = arguments.whole("stop", 0, Long.MAX_VALUE);
    saveTo(device.fit(samples("x", "y"), options, event -> told(event, stop)));
  }

  /** Prints an event; returns whether to continue. */
  private static boolean told(FitEvent event, long stop) {
    if (event instanceof FitEvent.Step step) {
      System.out.println(step.getLoss());
      return step.getStep() != stop;
    }
    if (event instanceof FitEvent.Epoch epoch) {
      StringBuilder line = new StringBuilder("epoch " + epoch.getEpoch() + " loss " + epoch.getLoss());
      if (epoch.getHeldOut() != null) {
        Double accuracy = epoch.getHeldOut().getAccuracy();
        line.append(" held-out loss ").append(epoch.getHeldOut().getLoss());
        if (accuracy != null) line.append(" accuracy ").append(accuracy);
      }
      System.out.println(line);
    }
    return true;
  }

  private void predict() throws IOException {
    List<String> files = arguments.all("out");
    List<OutputPort> outputs = device.getDescription().getOutputs();
    if (files.isEmpty() || files.size() > outputs.size()) throw usage("--out can be given at most once per output");
    Map<String, Output> found = model(arguments.optional("from")).predict(samples("x", null));
    for (int i = 0; i < files.size(); i++) write(Path.of(files.get(i)), found.get(outputs.get(i).getName()).getData());
  }

  /** Loads a delta or progress file, or the initial values. */
  private PersonalModel model(String from) {
    if (from != null) return device.load(new File(from));
    String entry = arguments.optional("entry");
    Description about = device.getDescription();
    return device.initial(entry == null ? about.getEntries().get(0) : about.entry(entry));
  }

  private void saveTo(PersonalModel model) {
    if (arguments.optional("delta") != null) model.saveDelta(new File(arguments.one("delta")));
    if (arguments.optional("selected") != null) model.saveSelected(new File(arguments.one("selected")));
  }

  private Samples samples(String x, String y) throws IOException {
    List<Port> inputs = device.getDescription().getInputs();
    List<String> files = arguments.all(x);
    if (files.size() != inputs.size())
      throw usage("--" + x + " is given " + files.size() + " times; the model has " + inputs.size() + " inputs");
    Map<String, ByteBuffer> numbers = new LinkedHashMap<>();
    for (int i = 0; i < files.size(); i++) {
      ByteBuffer bytes = read(files.get(i));
      numbers.put(inputs.get(i).getName(), arguments.optional("raw") == null ? bytes : fed(inputs.get(i), bytes));
    }
    return new Samples(numbers, y == null || arguments.optional(y) == null ? null : read(arguments.one(y)));
  }

  private ByteBuffer fed(Port input, ByteBuffer bytes) {
    float[] raw = new float[bytes.capacity() / 4];
    bytes.asFloatBuffer().get(raw);
    return Preprocess.feed(device.getDescription(), input, raw);
  }

  private static ByteBuffer read(String file) throws IOException {
    try (FileInputStream stream = new FileInputStream(file)) {
      return ByteBuffer.wrap(stream.readAllBytes()).order(ByteOrder.LITTLE_ENDIAN);
    }
  }

  private static void write(Path file, ByteBuffer data) throws IOException {
    try (FileChannel channel = FileChannel.open(file, CREATE, WRITE, TRUNCATE_EXISTING)) {
      for (ByteBuffer left = data.duplicate(); left.hasRemaining(); ) channel.write(left);
    }
  }

  static DeviceException usage(String message) {
    return new DeviceException(Problem.USAGE, message, null);
  }
}
